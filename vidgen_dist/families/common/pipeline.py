"""The pipeline of all families: a request's way through encode, denoise and decode.

The loop stands here once. Between two predictions latents are NumPy, whole, and equal on every rank.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np

from vidgen_dist import nn
from vidgen_dist.families.common.guidance import Guidance, H, Halves, both_halves, guide, own_halves
from vidgen_dist.families.common.rendering import (
    OnProgress,
    OnState,
    Rendering,
    StageClock,
    State,
    check_finite,
    draw_noise,
    round_to,
    seeded,
    to_frames,
)
from vidgen_dist.families.common.tasks import R, Rules
from vidgen_dist.families.family import Configs
from vidgen_dist.parallel.mesh import Mesh
from vidgen_dist.request import RenderRequest, ResolvedRequest
from vidgen_dist.schedulers.schedule import Memory, Schedule


@dataclass(frozen=True)
class Start(Generic[H]):
    """Where denoising begins. Families make a subclass for what their steps and decoding need besides.

    Args:
        latents: Noise, or what there is of a video already: float32 (1, ...).
        halves: What the video is conditioned on.
        schedule: The steps.
        guidance: Their weights.
        carried: Name of the dtype that latents are rounded to after each step.
        left_out: Numbers of steps that take the prediction, guided, of the step before for their own.
    """

    latents: np.ndarray
    halves: Halves[H]
    schedule: Schedule
    guidance: Guidance
    carried: str
    left_out: frozenset[int] = frozenset()


S = TypeVar("S", bound=Start[Any])

PREDICTION = "prediction"
"""What the loop remembers beside the sampler, where steps are left out: the latest prediction, guided."""


@dataclass(frozen=True)
class Parts:
    """What a pipeline is made of.

    Args:
        rules: What the checkpoint takes, for the task it was loaded for.
        configs: What is known of its components.
        components: Tokenizers, samplers, and models with their weights, by the components' names.
        dtype: Name of the models' dtype.
        mesh: The gang that renders together. All ranks render the same requests in the same order.
    """

    rules: Rules[Any]
    configs: Configs
    components: Mapping[str, Any]
    dtype: str
    mesh: Mesh = field(default_factory=Mesh)


class DiffusionPipeline(ABC, Generic[R, H, S]):
    """Renders requests with one checkpoint. A family says what happens in each stage.

    Each component is an attribute under its name.

    Args:
        parts: What it is made of.
    """

    def __init__(self, parts: Parts) -> None:
        self.rules: Rules[R] = parts.rules
        self.configs: Any = parts.configs
        self.dtype = parts.dtype
        self.mesh = parts.mesh
        for name, component in parts.components.items():
            setattr(self, name, component)

    def __call__(self, request: RenderRequest) -> np.ndarray:
        """Render one request: float32 frames (frames, height, width, 3) in [0, 1]."""
        return self.render(request).frames

    def render(
        self,
        request: RenderRequest | ResolvedRequest,
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
        r = self.rules.resolve(request)
        rng = seeded(r.seed)
        self.mesh.traffic.clear()
        clock = StageClock(on_progress)
        with clock.stage("encode"):
            start = self.prepare(r, self.encode(r), rng)
        with clock.stage("denoise", len(start.schedule)):
            latents = self._denoise(r, start, rng, clock, resume, on_state)
        with clock.stage("decode"):
            frames = to_frames(nn.to_numpy(self.decode(r, start, latents, rng)), self.mesh.gang)
        return Rendering(frames=frames, seconds=clock.seconds, sent=dict(self.mesh.traffic.sent))

    # What a family says

    @abstractmethod
    def encode(self, r: R) -> Halves[H]:
        """What the video is conditioned on; draws no noise."""

    @abstractmethod
    def prepare(self, r: R, halves: Halves[H], rng: np.random.Generator) -> S:
        """Where denoising begins. All noise before the first step is drawn here, in the reference's order."""

    @abstractmethod
    def predict(self, r: R, start: S, latents: np.ndarray, condition: H, i: int) -> nn.Tensor:
        """What the model predicts at a step, (B, ...).

        Args:
            r: The request.
            start: Where denoising began.
            latents: float32 (B, ...), scaled for the model: the same for each of this rank's halves.
            condition: Of these halves, arrays (B, ...).
            i: The step's number.
        """

    @abstractmethod
    def decode(self, r: R, start: S, latents: np.ndarray, rng: np.random.Generator) -> nn.Tensor:
        """The autoencoder's output, (1, 3, F, height, width) around [-1, 1], of latents (1, ...)."""

    def before_step(
        self,
        r: R,
        start: S,
        latents: np.ndarray,
        i: int,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Latents as the i-th step takes them: as they are, but where a part of them is given anew."""
        return latents

    def step(
        self,
        r: R,
        start: S,
        prediction: np.ndarray,
        latents: np.ndarray,
        memory: Memory,
        i: int,
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, Memory]:
        """Latents after the i-th step, and what the sampler remembers of it."""
        return start.schedule.step(prediction, i, latents, memory, rng)

    # The loop

    def _denoise(
        self,
        r: R,
        start: S,
        rng: np.random.Generator,
        clock: StageClock,
        resume: State | None,
        on_state: OnState | None,
    ) -> np.ndarray:
        """Latents (1, ...) after the last step."""
        steps = len(start.schedule)
        first, latents, memory = _begun(start, resume, rng)
        # Put together once a video: of each step's guidance, on or off.
        condition = functools.cache(lambda guided: start.halves.own(guided, self.mesh))
        for i in range(first, steps):
            latents = self.before_step(r, start, latents, i, rng)
            if i in start.left_out:
                prediction = memory[PREDICTION]
            else:
                prediction = self._guided(r, start, latents, condition, i)
            latents, memory = self.step(r, start, prediction, latents, memory, i, rng)
            if start.left_out:
                memory = {**memory, PREDICTION: prediction}
            latents = round_to(latents, start.carried)
            check_finite(latents, f"denoise, step {i + 1} of {steps}")
            if on_state is not None:
                on_state(State(i + 1, {"latents": latents, **memory}, rng.bit_generator.state))
            clock.tell("denoise", i + 1, steps)
        return latents

    def _guided(
        self, r: R, start: S, latents: np.ndarray, condition: Callable[[bool], H], i: int
    ) -> np.ndarray:
        """The prediction of a step, float32 (1, ...)."""
        weight = start.guidance.weights[i]
        samples = 1 if weight is None else len(own_halves((0, 1), self.mesh))
        shown = np.concatenate([start.schedule.scale_model_input(latents, i)] * samples)
        predicted = self.predict(r, start, shown, condition(weight is not None), i)
        if weight is None:
            return nn.to_numpy(predicted)
        return guide(nn.to_numpy(both_halves(predicted, self.mesh)), weight, start.guidance.rescale)

    # For families

    def tensor(self, values: np.ndarray) -> nn.Tensor:
        """Values on the device, in the models' dtype."""
        return nn.from_numpy(values, nn.dtype(self.dtype))

    def sample_posterior(self, mean: nn.Tensor, logvar: nn.Tensor, rng: np.random.Generator) -> np.ndarray:
        """Latents, float32, drawn from the distribution that an autoencoder gives."""
        mean, logvar = nn.to_numpy(mean), nn.to_numpy(logvar)
        sample = mean + np.exp(np.float32(0.5) * logvar) * draw_noise(rng, mean.shape, self.dtype)
        check_finite(sample, "encode, pixels")
        return sample


def _begun(
    start: Start[Any], resume: State | None, rng: np.random.Generator
) -> tuple[int, np.ndarray, Memory]:
    """The first step to take, and the latents and the sampler's memory before it."""
    if resume is None:
        return 0, start.latents, {}
    rng.bit_generator.state = resume.rng
    # Copied, as they may lie in memory that is shared and cannot be written to.
    memory = {name: np.array(array) for name, array in resume.arrays.items()}
    return resume.step, memory.pop("latents"), memory
