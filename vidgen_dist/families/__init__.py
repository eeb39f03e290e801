"""The model families: one folder and one line each. MindSpore is imported only when a pipeline is loaded."""

from __future__ import annotations

import functools
import logging
from collections.abc import Collection, Mapping
from importlib.metadata import entry_points
from typing import Any, NamedTuple

from vidgen_dist.errors import Refused
from vidgen_dist.families import (
    animatediff,
    cogvideox,
    hunyuan_video,
    i2vgen_xl,
    ltx,
    mochi,
    stable_video_diffusion,
)
from vidgen_dist.families.family import Family
from vidgen_dist.ledger.entries import SCHEMA
from vidgen_dist.manifest.columns import PRIORITY, column_of
from vidgen_dist.request import FIELDS, Field
from vidgen_dist.weights.checkpoint import INDEX, Checkpoint

_log = logging.getLogger(__name__)

ENTRY_POINTS = "vidgen_dist.families"
"""The entry point group under which other packages register families: each entry point is a `Family`."""

FAMILIES: tuple[Family[Any], ...] = (
    cogvideox.FAMILY,
    hunyuan_video.FAMILY,
    ltx.FAMILY,
    mochi.FAMILY,
    animatediff.FAMILY,
    stable_video_diffusion.FAMILY,
    i2vgen_xl.FAMILY,
)

OUR_FIELDS: Mapping[str, Field] = FIELDS | {
    name: field for family in FAMILIES for name, field in family.fields.items()
}
"""The fields of rows that our families take, by name. Columns with these names are read for all models: a
model that does not take a field refuses it, and a row without an id gets the same id for all models."""


class PlugIns(NamedTuple):
    """The families of other packages.

    Args:
        families: The families, by the entry points that name them.
        faults: What is wrong with entry points that cannot be used.
    """

    families: Mapping[str, Family[Any]]
    faults: tuple[str, ...]


@functools.cache
def plug_ins() -> PlugIns:
    """The families of other packages. One that cannot be used is left out with a warning; the others work."""
    families: dict[str, Family[Any]] = {}
    faults = []
    for entry in sorted(entry_points(group=ENTRY_POINTS), key=lambda entry: entry.value):
        installed = entry.dist.name if entry.dist else ENTRY_POINTS
        package = f"entry point {entry.name} = {entry.value} of {installed}"
        try:
            family = entry.load()
            _check_plug_in(family, families)
        except Exception as error:  # noqa: BLE001 - a package that a run does not need must not stop it
            reason = error if isinstance(error, Refused) else f"{type(error).__name__}: {error}"
            faults.append(f"{package}: cannot be used ({reason})")
        else:
            families[package] = family
    for fault in faults:
        _log.warning("%s; it is left out", fault)
    return PlugIns(families, tuple(faults))


def _check_plug_in(family: Any, others: Mapping[str, Family[Any]]) -> None:
    if not isinstance(family, Family):
        raise Refused(f"it is a {type(family).__name__}; allowed: a Family")
    taken = {*OUR_FIELDS, PRIORITY, *SCHEMA.names}
    for name, field in family.fields.items():
        if name in taken:
            raise Refused(
                f"it declares the field {name!r}, which is a column of all manifests or of the ledger"
            )
        for package, other in others.items():
            if other.fields.get(name, field) != field:
                raise Refused(f"it declares the field {name!r} differently from {package}")
        column_of(field)


def family_of(class_name: Any) -> Family[Any] | None:
    """The family that renders a pipeline class; None if there is none. Our own families come first.

    Raises:
        Refused: Several other packages render it.
    """
    for family in FAMILIES:
        if _renders(family, class_name):
            return family
    found = {
        package: family for package, family in plug_ins().families.items() if _renders(family, class_name)
    }
    if len(found) > 1:
        raise Refused(
            f"{class_name} is rendered by {' and by '.join(found)}; only one may: remove the others"
        )
    return next(iter(found.values()), None)


def find_family(checkpoint: Checkpoint) -> Family[Any]:
    """The family that a checkpoint's `model_index.json` names.

    Raises:
        Refused: No family renders its pipeline class, or several do.
    """
    class_name = checkpoint.model_index.get("_class_name")
    family = family_of(class_name)
    if family is not None:
        return family
    known = sorted(pipeline.name for family in all_families() for pipeline in family.pipelines)
    told = f"_class_name {class_name!r} is not a pipeline that vidgen renders on this host"
    raise Refused(
        "; ".join(
            [f"{checkpoint.folder / INDEX}: {told}", f"allowed: {', '.join(known)}", *plug_ins().faults]
        )
    )


def _renders(family: Family[Any], class_name: Any) -> bool:
    return any(pipeline.name == class_name for pipeline in family.pipelines)


def all_families() -> tuple[Family[Any], ...]:
    """Our families, then those of other packages."""
    return *FAMILIES, *plug_ins().families.values()


def fields_for(family: Family[Any]) -> Mapping[str, Field]:
    """The fields that are read for a model of this family: those of our families, and its own."""
    return {**OUR_FIELDS, **family.fields}


def fields_named(names: Collection[str]) -> Mapping[str, Field]:
    """Our families' fields, and those among these names that families of other packages take."""
    # Other packages are imported only if they are needed.
    others = known_fields() if set(names) - set(OUR_FIELDS) else {}
    return {**OUR_FIELDS, **{name: others[name] for name in names if name in others}}


def known_fields() -> Mapping[str, Field]:
    """All fields that any family takes, also in other packages."""
    others = plug_ins().families.values()
    return {**OUR_FIELDS, **{name: field for family in others for name, field in family.fields.items()}}


def needed_columns() -> tuple[str, ...]:
    """The columns of which every manifest needs one; none if some family needs no column."""
    first = [family.required_columns[:1] for family in all_families()]
    return tuple(dict.fromkeys(name for names in first for name in names)) if all(first) else ()
