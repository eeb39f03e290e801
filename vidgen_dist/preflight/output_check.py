"""Whether a run may use an output: it is empty, or of the same run."""

from __future__ import annotations

from typing import Any

from vidgen_dist.engine import OpenedModel
from vidgen_dist.errors import Refused
from vidgen_dist.ledger import LedgerState
from vidgen_dist.manifest import Manifest
from vidgen_dist.output.run_file import read_run_file
from vidgen_dist.output_layout import LEDGER_FOLDER, RUN_FILE, VIDEOS_FOLDER
from vidgen_dist.spec import RunSpec
from vidgen_dist.storage.folder import Storage
from vidgen_dist.storage.listing import would_find
from vidgen_dist.storage.uris import redact, to_record


def check_outside_manifest(spec: RunSpec, output: Storage) -> None:
    """Refuse an output in the manifest's folder: the next run would read ledger parts as manifest files."""
    if would_find(spec.manifest.uri, output.uri(f"{LEDGER_FOLDER}/part.parquet")):
        raise Refused(
            f"{redact(output.uri())}: lies in the manifest {redact(spec.manifest.uri)}, which would come to "
            "hold the ledger; give a folder outside of it, or name the manifest's files: *.parquet"
        )


def read_previous_run(output: Storage) -> RunSpec | None:
    """The run that the output is of; None if it is of none.

    Raises:
        Refused: It cannot be read; or it holds files of the same names that are not a run's.
    """
    try:
        before = read_run_file(output)
        if before is not None:
            return before
        for folder in (VIDEOS_FOLDER, LEDGER_FOLDER):
            if output.list(folder):
                raise Refused(
                    f"{redact(output.uri())}: has {folder}/ but no {RUN_FILE}, so it is no run's output; "
                    "give another folder"
                )
    except OSError as error:
        raise Refused(str(error)) from None
    return None


def with_previous_revisions(spec: RunSpec, before: RunSpec) -> RunSpec:
    """The spec with the previous run's commits, where it names none of its own.

    A branch that has moved since must not cause finished rows to be rendered again.
    """
    then, now = before.model, spec.model
    kept: dict[str, Any] = {}
    if now.revision is None and then.id == now.id:
        kept["model.revision"] = then.revision
    if now.adapter_revision is None and then.adapter == now.adapter:
        kept["model.adapter_revision"] = then.adapter_revision
    if now.loras:
        commits = {(lora.id, lora.weight_name): lora.revision for lora in then.loras}
        kept["model.loras"] = [
            {"revision": commits.get((lora.id, lora.weight_name)), **lora.model_dump(exclude_none=True)}
            for lora in now.loras
        ]
    return spec.override(kept)


def check_same_run(
    spec: RunSpec, before: RunSpec, model: OpenedModel, ledger: LedgerState, manifest: Manifest
) -> None:
    """Refuse an output that is of another run.

    Args:
        spec: What the run is.
        before: The run that the output is of.
        model: What is known of the model.
        ledger: The output's.
        manifest: The run's manifest.

    Raises:
        Refused: Says by what the two differ.
        OSError: The manifest cannot be read, or was changed.
    """
    # A run that has not entered a row leaves nothing that could be mixed up.
    if ledger.parts:
        _check_settings(spec, before, model)
        _check_manifest(spec, before, ledger, manifest)


def _check_settings(spec: RunSpec, before: RunSpec, model: OpenedModel) -> None:
    # A folder elsewhere with the same content is the same model.
    same = model.revision is None and before.model.digest == model.digest
    for key, then, now in (
        ("model.id", before.model.id, before.model.id if same else spec.model.id),
        ("model.task", before.model.task, model.rules.task),
        ("output.format", before.output.format, spec.output.format),
    ):
        if then != now:
            raise Refused(
                f"{redact(spec.output.uri)}: is the output of another run: {key} is {then!r} in its "
                f"{RUN_FILE}, here {now!r}; give another folder"
            )


def _check_manifest(spec: RunSpec, before: RunSpec, ledger: LedgerState, manifest: Manifest) -> None:
    """Refuse another manifest, none of whose rows is in the ledger."""
    if before.manifest.uri == to_record(spec.manifest.uri):
        return
    if not any(ledger.has_entries(batch.ids).any() for batch in manifest.batches(extras=False)):
        raise Refused(
            f"{redact(spec.output.uri)}: is the output of another run: its manifest is "
            f"{redact(before.manifest.uri)}, and no row of {redact(spec.manifest.uri)} is in its ledger; "
            "give another folder"
        )
