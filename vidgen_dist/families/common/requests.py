"""Requests with every default filled in, with the fields that several families share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vidgen_dist.encoders.config import ClipTextConfig
from vidgen_dist.request import RequestError, ResolvedRequest
from vidgen_dist.schedulers.discrete import DiscreteScheduler


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


@dataclass(frozen=True, kw_only=True)
class UNetRequest(ResolvedRequest):
    """A video that a prompt describes to CLIP's text encoder, made by a UNet. See `RenderRequest`."""

    prompt: str
    negative_prompt: str
    num_frames: int
    guidance_scale: float
    eta: float
    clip_skip: int
    decode_chunk_size: int

    @property
    def is_guided(self) -> bool:
        """Whether each step predicts with its conditions and without."""
        return self.guidance_scale > 1.0

    def check(self, text_encoder: ClipTextConfig, scheduler: DiscreteScheduler[Any]) -> None:
        """Check that a checkpoint supports the request.

        Raises:
            RequestError: More layers are skipped than the text encoder has, or the sampler does not support
                that number of steps.
        """
        layers = text_encoder.num_hidden_layers
        if self.clip_skip > layers:
            allowed = f"up to {layers}, the layers of the text encoder"
            raise RequestError("clip_skip", self.clip_skip, allowed)
        scheduler.predictions(self.num_inference_steps)
