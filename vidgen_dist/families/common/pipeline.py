"""What the pipelines of all families have in common: a request's way through encode, denoise and decode."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import numpy as np

from vidgen_dist import nn
from vidgen_dist.families.common.guidance import own_halves
from vidgen_dist.families.common.prompts import Encoded, EncodedTexts
from vidgen_dist.families.common.rendering import (
    OnProgress,
    OnState,
    Rendering,
    StageClock,
    State,
    Steps,
    seeded,
)
from vidgen_dist.families.rules import Rules
from vidgen_dist.parallel.mesh import Mesh, alone
from vidgen_dist.request import RenderRequest

S = TypeVar("S")
"""What a family's denoising starts from: encoded prompts, noise, and what it remembers of both."""


@dataclass(frozen=True)
class TextAndNoise:
    """Where denoising begins that is conditioned on text alone.

    Args:
        texts: What the text encoders made of the prompts, (B, ...) each.
        noise: Latents, float32 (1, ...).
    """

    texts: Encoded
    noise: np.ndarray


class FamilyPipeline(ABC, Generic[S]):
    """Renders requests with one checkpoint; what happens in each stage, a family says.

    Args:
        rules: What the checkpoint takes, for the task it was loaded for.
        dtype: Name of the models' dtype.
        mesh: The gang that renders together; None for this process alone. All ranks render the same requests
            in the same order.
    """

    def __init__(self, rules: Rules, dtype: str, mesh: Mesh | None) -> None:
        self.rules = rules
        self.dtype = dtype
        self.mesh = mesh or alone()
        self._texts = EncodedTexts()

    def __call__(self, request: RenderRequest) -> np.ndarray:
        """Render one request: float32 frames (frames, height, width, 3) in [0, 1]."""
        return self.render(request).frames

    def render(
        self,
        request: RenderRequest,
        on_progress: OnProgress | None = None,
        *,
        resume: State | None = None,
        on_state: OnState | None = None,
    ) -> Rendering:
        """Render one request.

        Args:
            request: What to render; fields left out take the model's defaults, and seed 0.
            on_progress: Called when a stage begins and after each denoising step.
            resume: State of a rendering of this request to go on from; on a gang the same on all ranks.
            on_state: Called with the state after each denoising step.

        Raises:
            RequestError: A field that the model cannot do, or a clip that does not fit.
            MediaError: An image or clip that does not decode.
            NumericalError: Values that are NaN or infinite, instead of a video.
        """
        request = self.rules.resolve(request)
        rng = seeded(request.seed or 0)
        self.mesh.traffic.clear()
        clock = StageClock(on_progress)
        with clock.stage("encode"):
            start, count = self._start(request, rng)
        steps = Steps(count, rng, clock, resume, on_state)
        with clock.stage("denoise", steps.count):
            latents = self._denoise(request, start, steps)
        with clock.stage("decode"):
            frames = self._decode(request, start, latents, rng)
        return Rendering(frames=frames, seconds=clock.seconds, sent=dict(self.mesh.traffic.sent))

    @abstractmethod
    def _start(self, request: RenderRequest, rng: np.random.Generator) -> tuple[S, int]:
        """Where denoising begins, and the number of its steps."""

    @abstractmethod
    def _denoise(self, request: RenderRequest, start: S, steps: Steps) -> np.ndarray:
        """Latents after the last step."""

    @abstractmethod
    def _decode(
        self, request: RenderRequest, start: S, latents: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Latents to frames (F, height, width, 3) in [0, 1]."""

    @abstractmethod
    def _encode(self, prompt: str, length: int) -> Encoded:
        """What the text encoders make of one prompt, (1, ...) each, without NaN and infinity.

        One at a time: the encoders' activations at twice the batch are their peak of memory.

        Args:
            prompt: As the row has it.
            length: Tokens that are made of it.
        """

    def _encode_texts(self, request: RenderRequest, negative_prompt: str | None) -> Encoded:
        """What the text encoders make of a request's prompts, (B, ...) each: the negative one's first.

        Where the halves of guidance have ranks of their own, only this rank's half.

        Args:
            request: With its defaults filled in.
            negative_prompt: None where there is no guidance.
        """
        length = request.max_sequence_length
        assert length is not None
        assert request.prompt is not None, "rules refuse it"
        prompts = [request.prompt] if negative_prompt is None else [negative_prompt, request.prompt]
        # Every rank has those of both halves: with a share of them, ranks that know their prompt would not
        # be there to gather the encoder's weights with those that do not.
        texts = [self._texts.get(prompt, length, partial(self._encode, prompt, length)) for prompt in prompts]
        if negative_prompt is not None:
            texts = list(own_halves(texts, self.mesh))
        return tuple(np.concatenate(parts) for parts in zip(*texts, strict=True))

    def _tensor(self, values: np.ndarray) -> nn.Tensor:
        return nn.from_numpy(values, nn.dtype(self.dtype))
