"""Fields that the requests of several families have, with every default filled in."""

from __future__ import annotations

from dataclasses import dataclass

from vidgen_dist.request import ResolvedRequest


@dataclass(frozen=True, kw_only=True)
class PromptedRequest(ResolvedRequest):
    """A video that a prompt describes. See `RenderRequest` for the fields."""

    prompt: str
    guidance_scale: float
    max_sequence_length: int

    @property
    def is_guided(self) -> bool:
        """Whether a model without embedded guidance renders it with and without its prompt."""
        return self.guidance_scale > 1.0
