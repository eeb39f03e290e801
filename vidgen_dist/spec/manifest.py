"""The options of the manifest: which rows are rendered."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from vidgen_dist.spec.option import Option, Part
from vidgen_dist.spec.values import Named, NonEmptyText, Retry


class ManifestOptions(Part):
    """Which rows are rendered.

    Args:
        fields: The columns that a run reads for a family of another package, which it records to recognise
            its rows without the model; not an option. The declarations say what the other fields are.
    """

    GROUP: ClassVar = "Manifest"

    uri: Annotated[
        NonEmptyText, Option("A Parquet file, a folder or a glob of them.", argument="MANIFEST", usual=True)
    ]
    passthrough: Annotated[
        tuple[NonEmptyText, ...],
        Named("a list of columns"),
        Option(
            "Columns to copy to the ledger, with commas between; may be repeated.",
            flag="--passthrough",
            details="They are columns that no field of a row has. They keep their types, except some that "
            "`datasets` or Arrow itself cannot read again: UUIDs become texts, maps lists of `key` and "
            "`value`, tensors lists of lists; other extension types, dictionaries and views become what they "
            "are stored as.",
            commands=("render", "manifest check"),
        ),
    ] = ()
    retry: Annotated[
        Retry | None,
        Option(
            "Render only rows that failed and are not done since; failed:CLASS: those of one error class.",
            flag="--retry",
            metavar="failed[:CLASS]",
            values=("failed",),
            unset="all rows that are not done",
            details="For example `failed:MediaError`. It holds for one run; `run.yaml` does not keep it.",
        ),
    ] = None
    keep: Annotated[
        bool,
        Field(strict=True),
        Option(
            "Copy the manifest into the output, whose run.yaml then names the copy.",
            flag="--keep-manifest",
            details="For a manifest that will not stay where it is. The copy is named by its content; one "
            "that is there already is not written again. `vidgen submit` sets it for what it "
            "packages.",
        ),
    ] = False
    fields: tuple[NonEmptyText, ...] | None = None
