"""The checkpoint that a run's options name, with what they put beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from vidgen_dist.errors import Refused
from vidgen_dist.families import family_of, find_family
from vidgen_dist.spec import Model
from vidgen_dist.weights.checkpoint import Checkpoint, open_checkpoint
from vidgen_dist.weights.single import open_single


def checkpoint_of(options: Model, *, weights: bool = True) -> Checkpoint:
    """Open what a run's options name.

    Args:
        options: Which checkpoint, of which revision and variant, and with which motion adapter.
        weights: False to download configs and vocabularies only.

    Raises:
        Refused: As `open_checkpoint` and `open_single`; an adapter for a family that takes none.
    """
    checkpoint = open_checkpoint(
        options.id, revision=options.revision, variant=options.variant, ignores=_ignored, weights=weights
    )
    if options.adapter is None:
        if options.adapter_revision is not None:
            raise Refused(
                f"model.adapter_revision: {options.adapter_revision!r} is not allowed without model.adapter"
            )
        return checkpoint
    family = find_family(checkpoint)
    named = f"model.adapter: {options.adapter!r} is not allowed"
    if family.adapter is None:
        raise Refused(f"{named}; {family.name} takes none: leave it out")
    if checkpoint.has_component(family.adapter):
        raise Refused(f"{named}; {checkpoint.model} has a {family.adapter} of its own: leave it out")
    adapter = open_single(
        "adapter",
        options.adapter,
        revision=options.adapter_revision,
        variant=options.variant,
        weights=weights,
    )
    return dataclasses.replace(checkpoint, elsewhere={family.adapter: adapter})


def _ignored(model_index: Mapping[str, Any]) -> Collection[str]:
    family = family_of(model_index.get("_class_name"))
    return () if family is None else family.ignores
