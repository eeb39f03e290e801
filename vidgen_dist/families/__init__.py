"""The model families: a folder and a line each. No MindSpore until a pipeline is loaded."""

from __future__ import annotations

from collections.abc import Iterator
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


def known_fields() -> dict[str, Field]:
    """The fields of rows that some family takes, by name: the common ones, then those of a family alone."""
    found = dict(FIELDS)
    for family in all_families():
        found |= family.fields
    return found
