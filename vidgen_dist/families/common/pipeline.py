"""The pipeline of all families: encode, denoise, decode.

The denoising loop is here, once for all families. Between two predictions latents are whole NumPy arrays,
equal on every rank.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np

from vidgen_dist import nn
from vidgen_dist.families.common.guidance import Guidance, H, Halves, gather_cfg, guide, split_cfg
from vidgen_dist.families.common.prompt_store import PromptStore
from vidgen_dist.families.common.rendering import (
    OnProgress,
    OnState,
    Rendering,
    ResumeState,
    StageClock,
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
from vidgen_dist.weights.lora.switch import LoraSwitch


@dataclass(frozen=True)
class Start(Generic[H]):
    """Where denoising begins. Families make a subclass if their steps or their decoding need more.

    Args:
        latents: Noise, or the latents of a given video: float32 (1, ...).
        halves: What the video is conditioned on.
        schedule: The steps.
        guidance: How they are guided.
        carried: Name of the dtype that latents are rounded to after each step.
        left_out: Numbers of steps that reuse the guided prediction of the step before. The first step, 0,
            cannot.

    Raises:
        ValueError: The first step is left out, or a step is guided without an unconditional half.
    """

    latents: np.ndarray
    halves: Halves[H]
    schedule: Schedule
    guidance: Guidance
    carried: str
    left_out: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if 0 in self.left_out:
            raise ValueError("left_out: contains step 0, which has no prediction before it to reuse")
        guided = any(weight is not None for weight in self.guidance.weights)
        if guided and self.halves.unconditional is None:
            raise ValueError("halves: unconditional is None, but a step has a weight of guidance")


S = TypeVar("S", bound=Start[Any])

LATENTS, PREDICTION = "latents", "prediction"
"""The names of the loop's arrays in resume states: the latents and, if steps are left out, the latest guided
prediction."""


@dataclass(frozen=True)
class Parts:
    """The parts of a pipeline.

    Args:
        rules: What the checkpoint takes, for the task that it was loaded for.
        configs: The configs of its components.
        components: Tokenizers, samplers, and models with their weights, by component.
        dtype: Name of the models' dtype.
        mesh: The gang that renders together. All ranks render the same requests in the same order.
        loras: The LoRAs that are in the models' weights.
        prompt_store: Keeps encoded prompts; None to keep none.
    """

    rules: Rules[Any]
    configs: Configs
    components: Mapping[str, Any]
    dtype: str
    mesh: Mesh = field(default_factory=Mesh)
    loras: LoraSwitch = field(default_factory=lambda: LoraSwitch({}, lambda _: {}))
    prompt_store: PromptStore | None = None


class DiffusionPipeline(ABC, Generic[R, H, S]):
    """Renders requests with one checkpoint. A family implements the stages.

    Each component is an attribute under its name.

    Args:
        parts: The parts of the pipeline.
    """

    def __init__(self, parts: Parts) -> None:
        self.rules: Rules[R] = parts.rules
        self.configs: Any = parts.configs
        self.dtype = parts.dtype
        self.mesh = parts.mesh
        self.loras = parts.loras
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
        resume: ResumeState | None = None,
        on_state: OnState | None = None,
    ) -> Rendering:
        """Render one request.

        Args:
            request: What to render; fields left out have the model's defaults, and seed 0.
            on_progress: Called when a stage begins and after each denoising step.
            resume: State from which to continue rendering this request; on a gang the same on all ranks.
            on_state: Called with the state after each denoising step.

        Raises:
            RequestError: A field that the model does not support, or a clip that does not fit.
            LoraError: A LoRA that cannot be opened, or does not fit the model.
            MediaError: An image or clip that cannot be decoded.
            NumericalError: Values became NaN or infinite, so there is no video.
        """
        r = self.rules.resolve(request)
        rng = seeded(r.seed)
        self.mesh.traffic.clear()
        clock = StageClock(on_progress)
        with clock.stage("encode"):
            changed = self._use_loras(r, lambda: clock.report("encode", 0, 1))
            start = self.prepare(r, self.encode(r), rng)
        with clock.stage("denoise", len(start.schedule)):
            latents = self._denoise(r, start, rng, clock, resume, on_state)
        with clock.stage("decode"):
            frames = to_frames(nn.to_numpy(self.decode(r, start, latents, rng)), self.mesh.gang)
        return Rendering(
            frames=frames,
            seconds=clock.seconds,
            sent=dict(self.mesh.traffic.sent),
            loras_changed=changed,
        )

    def encode_prompts(self, request: RenderRequest | ResolvedRequest) -> None:
        """Encode a request's prompts alone: they are in the prompt store then, if there is one.

        Raises:
            RequestError, LoraError, NumericalError: As `render`.
        """
        r = self.rules.resolve(request)
        self._use_loras(r)
        self.encode(r)

    def _use_loras(self, r: R, on_read: Callable[[], None] = lambda: None) -> bool:
        """Let the weights have the request's LoRAs; whether they had others."""
        changed = self.loras.use(r.loras, on_read)
        if changed:
            self.weights_changed(changed)
        return bool(changed)

    # What a family implements

    @abstractmethod
    def encode(self, r: R) -> Halves[H]:
        """What the video is conditioned on; both halves if the request is guided. Draws no noise."""

    @abstractmethod
    def prepare(self, r: R, halves: Halves[H], rng: np.random.Generator) -> S:
        """Where denoising begins. All noise before the first step is drawn here, in the reference's order."""

    @abstractmethod
    def predict(self, r: R, start: S, latents: np.ndarray, condition: H, i: int) -> nn.Tensor:
        """The model's prediction at a step, (B, ...).

        Args:
            r: The request.
            start: Where denoising began.
            latents: float32 (B, ...), scaled for the model: the same for each of this rank's halves.
            condition: The condition of these halves, arrays (B, ...).
            i: The step's number.
        """

    @abstractmethod
    def decode(self, r: R, start: S, latents: np.ndarray, rng: np.random.Generator) -> nn.Tensor:
        """The autoencoder's output, (1, 3, F, height, width) around [-1, 1], for latents (1, ...)."""

    def weights_changed(self, components: Collection[str]) -> None:
        """Forget what was computed with these components' weights: the LoRAs in them have changed."""

    def before_step(
        self,
        r: R,
        start: S,
        latents: np.ndarray,
        i: int,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """The latents that the i-th step starts from.

        A family whose steps are given a part of the latents, such as an image's frame, inserts that part
        here.

        Args:
            r: The request.
            start: Where denoising began.
            latents: The result of the step before, or where denoising began: float32, in the shape of
                `start.latents`, batch first. Must not be written to.
            i: The step's number.
            rng: Noise is drawn from it.

        Returns:
            float32, in the same shape; the same values on every rank of a gang.
        """
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
        """The latents after the i-th step, and what the sampler remembers of it.

        Args:
            r: The request.
            start: Where denoising began.
            prediction: The model's guided prediction: float32, in the shape of the latents.
            latents: The result of `before_step`. Must not be written to.
            memory: What the step before returned; empty before the first.
            i: The step's number.
            rng: Noise is drawn from it.

        Returns:
            Latents, float32, in the shape of `start.latents`, batch first; and named arrays, which the loop
            saves with the latents. Both have the same values on every rank of a gang.
        """
        return start.schedule.step(prediction, i, latents, memory, rng)

    # The loop

    def _denoise(
        self,
        r: R,
        start: S,
        rng: np.random.Generator,
        clock: StageClock,
        resume: ResumeState | None,
        on_state: OnState | None,
    ) -> np.ndarray:
        """The latents (1, ...) after the last step."""
        steps = len(start.schedule)
        first, kept, memory = _resume_point(start, resume, rng)
        # A video has at most two conditions, with guidance and without: each is assembled once.
        condition = functools.cache(lambda guided: start.halves.of_rank(guided, self.mesh))
        for i in range(first, steps):
            latents = self.before_step(r, start, kept[LATENTS], i, rng)
            if i in start.left_out:
                prediction = kept[PREDICTION]
            else:
                prediction = self._guided(r, start, latents, condition, i)
            latents, memory = self.step(r, start, prediction, latents, memory, i, rng)
            latents = round_to(latents, start.carried)
            check_finite(latents, f"denoise, step {i + 1} of {steps}")
            kept = {LATENTS: latents} | ({PREDICTION: prediction} if start.left_out else {})
            _check_names(start.schedule, kept, memory)
            if on_state is not None:
                on_state(ResumeState(i + 1, {**kept, **memory}, rng.bit_generator.state))
            clock.report("denoise", i + 1, steps)
        return kept[LATENTS]

    def _guided(
        self, r: R, start: S, latents: np.ndarray, condition: Callable[[bool], H], i: int
    ) -> np.ndarray:
        """The prediction of a step, float32 (1, ...)."""
        weight = start.guidance.weights[i]
        samples = 1 if weight is None else len(split_cfg((0, 1), self.mesh))
        shown = np.concatenate([start.schedule.scale_model_input(latents, i)] * samples)
        predicted = self.predict(r, start, shown, condition(weight is not None), i)
        if weight is None:
            return nn.to_numpy(predicted)
        return guide(nn.to_numpy(gather_cfg(predicted, self.mesh)), weight, start.guidance.rescale)

    # Helpers for families

    def tensor(self, values: np.ndarray) -> nn.Tensor:
        """Values on the device, in the models' dtype."""
        return nn.from_numpy(values, nn.dtype(self.dtype))

    def sample_posterior(self, mean: nn.Tensor, logvar: nn.Tensor, rng: np.random.Generator) -> np.ndarray:
        """Latents, float32, drawn from the distribution that an autoencoder returns."""
        mean, logvar = nn.to_numpy(mean), nn.to_numpy(logvar)
        sample = mean + np.exp(np.float32(0.5) * logvar) * draw_noise(rng, mean.shape, self.dtype)
        check_finite(sample, "encode, pixels")
        return sample


def _resume_point(
    start: Start[Any], resume: ResumeState | None, rng: np.random.Generator
) -> tuple[int, Mapping[str, np.ndarray], Memory]:
    """The first step to take, and the arrays that the loop and the sampler have before it."""
    if resume is None:
        return 0, {LATENTS: start.latents}, {}
    rng.bit_generator.state = resume.rng
    # Copied, because they may be in shared memory that cannot be written to.
    arrays = {name: np.array(array) for name, array in resume.arrays.items()}
    own = (LATENTS, PREDICTION) if start.left_out else (LATENTS,)
    return resume.step, {name: arrays.pop(name) for name in own}, arrays


def _check_names(schedule: Schedule, kept: Mapping[str, np.ndarray], memory: Memory) -> None:
    """Check that the sampler's arrays do not have the names of the loop's arrays in resume states."""
    for name in kept.keys() & memory.keys():
        raise ValueError(
            f"{type(schedule).__name__}.step: remembers an array named {name!r}; allowed is any other name: "
            f"the loop saves an array of its own under this one"
        )
