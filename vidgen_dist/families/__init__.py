"""The model families: a folder and a line each. No MindSpore until a pipeline is loaded."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from vidgen_dist.errors import Refused
from vidgen_dist.families import cogvideox, hunyuan_video, ltx, mochi
from vidgen_dist.families.family import Family
from vidgen_dist.request import FIELDS, Field
from vidgen_dist.weights.checkpoint import INDEX, Checkpoint

ENTRY_POINTS = "vidgen_dist.families"
"""The group under which another package names its own: each entry point is a `Family`."""

FAMILIES: tuple[Family[Any], ...] = (cogvideox.FAMILY, hunyuan_video.FAMILY, ltx.FAMILY, mochi.FAMILY)


@cache
def plugged_in() -> tuple[Family[Any], ...]:
    """The families that other packages bring.

    Raises:
        Refused: One that cannot be imported, is no family, or renders what another one does: names it.
    """
    found: dict[str, str] = {}
    families = []
    for entry in sorted(entry_points(group=ENTRY_POINTS), key=lambda entry: entry.value):
        package = f"entry point {entry.name} = {entry.value} of {ENTRY_POINTS}"
        try:
            family = entry.load()
        except Exception as error:
            raise Refused(f"{package}: cannot be loaded ({type(error).__name__}: {error})") from error
        if not isinstance(family, Family):
            raise Refused(f"{package}: is a {type(family).__name__}; allowed: a Family")
        for pipeline in family.pipelines:
            if pipeline.name in found:
                raise Refused(f"{package}: renders {pipeline.name}, as {found[pipeline.name]} does; one can")
            found[pipeline.name] = package
        families.append(family)
    return tuple(families)


def find_family(checkpoint: Checkpoint) -> Family[Any]:
    """The family that a checkpoint's `model_index.json` names. Ours are asked first, then other packages'.

    Raises:
        Refused: No family renders its pipeline class.
    """
    class_name = checkpoint.model_index.get("_class_name")
    for families in (lambda: FAMILIES, plugged_in):
        for family in families():
            if any(class_name == pipeline.name for pipeline in family.pipelines):
                return family
    known = ", ".join(sorted(pipeline.name for family in all_families() for pipeline in family.pipelines))
    raise Refused(
        f"{checkpoint.folder / INDEX}: _class_name {class_name!r} is not a pipeline that vidgen renders on "
        f"this host; allowed: {known}"
    )


def all_families() -> Iterator[Family[Any]]:
    """Ours, then other packages'; raises as `plugged_in`."""
    yield from FAMILIES
    yield from plugged_in()


OUR_FIELDS: Mapping[str, Field] = FIELDS | {
    name: field for family in FAMILIES for name, field in family.fields.items()
}
"""The fields of rows that our families take, by name. Columns of these names are read whatever the model is:
one that does not take a field says so, and a row without an id has the same one for all models."""


def fields_for(family: Family[Any]) -> Mapping[str, Field]:
    """The fields that are read for a model of a family: ours, and its own."""
    return {**OUR_FIELDS, **family.fields}


def fields_named(names: Collection[str]) -> Mapping[str, Field]:
    """Our fields, and those of other packages' families that have one of these names."""
    known = known_fields() if names else {}
    return {**OUR_FIELDS, **{name: known[name] for name in names if name in known}}


def known_fields() -> Mapping[str, Field]:
    """The fields that some family takes, other packages' too."""
    return {**OUR_FIELDS, **{name: field for family in plugged_in() for name, field in family.fields.items()}}
