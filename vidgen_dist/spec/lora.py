"""The options of a LoRA: which file, and how much of it is added."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

from pydantic import AllowInfNan, Field, model_validator

from vidgen_dist.spec.option import Part
from vidgen_dist.spec.values import NonEmptyText


class LoraOptions(Part):
    """A LoRA: in a run.yaml, a mapping of these names, or a text `PLACE` or `PLACE:SCALE`.

    Args:
        id: Hub id, folder, or path or URI of a file.
        scale: How much of it is added to the weights; negative to subtract it.
        revision: Branch, tag or commit of a hub id.
        weight_name: The file's name in a folder or on the hub, if it is not clear which is meant.
        digest: SHA-256 of its content, which a run records; not an option.
    """

    GROUP: ClassVar = "Model"

    id: NonEmptyText
    scale: Annotated[float, Field(strict=True), AllowInfNan(False)] = 1.0
    revision: NonEmptyText | None = None
    weight_name: NonEmptyText | None = None
    digest: NonEmptyText | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        place, scale = split_scale(value)
        return {"id": place} if scale is None else {"id": place, "scale": scale}


def split_scale(text: str) -> tuple[str, float | None]:
    """A LoRA's place, and the scale behind the text's last colon; None if no number stands there."""
    place, colon, last = text.rpartition(":")
    try:
        scale = float(last)
    except ValueError:
        return text, None
    return (place, scale) if colon and place and math.isfinite(scale) else (text, None)
