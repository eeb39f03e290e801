"""What every family's pipeline shares: the rendering, its stages' clock, noise and pixels in."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
from PIL import Image

from vidgen_dist.errors import RowError
from vidgen_dist.schedulers.schedule import Schedule

if TYPE_CHECKING:
    from vidgen_dist.parallel.collectives import Group

OnProgress = Callable[[str, int, int], None]
"""Called with (stage, steps done, steps in all) when a stage begins and after each step of it: the signs of
life of a rendering. Stages without steps have one, which is not reported when it is done."""


class NumericalError(RowError, ValueError):
    """Values that are NaN or infinite, of which no video can be made: names the stage and the step."""


@dataclass(frozen=True)
class Rendering:
    """A finished video.

    Args:
        frames: float32 (frames, height, width, 3) in [0, 1]; on ranks of a gang other than the first, with
            no rows.
        seconds: Seconds per stage: `encode`, `denoise`, `decode`.
        sent: Bytes that this rank sent to others of its gang, by purpose.
    """

    frames: np.ndarray
    seconds: dict[str, float]
    sent: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ResumeState:
    """A rendering between two denoising steps: what the rest of it needs that its request does not say.

    Args:
        step: Steps that are done.
        arrays: Name -> array: the latents, and what the sampler remembers of earlier steps. Nobody writes to
            them.
        rng: State of the generator that all noise is drawn from, as its `bit_generator` gives it.
    """

    step: int
    arrays: Mapping[str, np.ndarray]
    rng: Mapping[str, Any]


OnState = Callable[[ResumeState], None]
"""Called after each denoising step. A rendering of the same request that goes on from that state makes the
same frames; on another number of ranks to 1e-4, as any does."""


@dataclass
class StageClock:
    """Seconds that each stage of one rendering took, and how far it is.

    Args:
        on_progress: Called with the stage and its steps; None: nobody is told.
        seconds: Stage -> seconds.
    """

    on_progress: OnProgress | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    def tell(self, stage: str, done: int, steps: int) -> None:
        """Report how many steps of a stage are done."""
        if self.on_progress is not None:
            self.on_progress(stage, done, steps)

    @contextmanager
    def stage(self, name: str, steps: int = 1) -> Iterator[None]:
        """Time a stage, and report that it begins.

        Args:
            name: The stage.
            steps: How many it has.
        """
        self.tell(name, 0, steps)
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begun


def seeded(seed: int) -> np.random.Generator:
    """The generator that all noise of one video is drawn from, in the reference pipeline's order."""
    return np.random.Generator(np.random.PCG64(seed))


def draw_noise(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Standard normal noise rounded to the model's dtype, as float32."""
    return round_to(rng.standard_normal(shape), dtype)


def starting_noise(
    rng: np.random.Generator, shape: tuple[int, ...], schedule: Schedule, dtype: str
) -> np.ndarray:
    """Noise of the spread that a schedule starts from, drawn and rounded in the model's dtype, as float32."""
    return round_to(draw_noise(rng, shape, dtype) * np.float32(schedule.init_noise_sigma), dtype)


def round_to(values: np.ndarray, dtype: str) -> np.ndarray:
    """Values as the model's dtype (`float32`, `float16`, `bfloat16`) can hold them, as float32."""
    held = values.astype(_NUMPY_DTYPES[dtype], copy=False)
    return held.astype(np.float32, copy=False)


_NUMPY_DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def to_pixels(images: Sequence[Image.Image], height: int, width: int) -> np.ndarray:
    """Images as a VAE takes them, resized as diffusers' VideoProcessor does.

    Returns:
        float32 (1, 3, frames, height, width) in [-1, 1].
    """
    resized = [
        image if image.size == (width, height) else image.resize((width, height), Image.Resampling.LANCZOS)
        for image in images
    ]
    frames = np.stack([np.asarray(image, dtype=np.float32) for image in resized]) / np.float32(255)
    return np.ascontiguousarray((frames * 2 - 1).transpose(3, 0, 1, 2)[None])


def check_finite(values: np.ndarray, stage: str) -> None:
    """Raise if values have gone wrong; for what every rank of a gang has alike.

    Args:
        values: Encoded texts, latents: small, next to what makes them.
        stage: Of the rendering, and its step: `denoise, step 3 of 50`.

    Raises:
        NumericalError: One of them is NaN or infinite.
    """
    if not np.isfinite(values).all():
        raise NumericalError(_not_finite(stage))


def to_frames(video: np.ndarray, gang: Group) -> np.ndarray:
    """A VAE's output (1, 3, F, H, W) around [-1, 1] as frames (F, H, W, 3) in [0, 1].

    Args:
        video: Of a gang the first rank's; the others' without rows.
        gang: All ranks, who call this together.

    Raises:
        NumericalError: A value is NaN or infinite; raised on all ranks.
    """
    # Channel by channel, for the sake of memory; and before infinity is clipped to white.
    finite = all(np.isfinite(channel).all() for channel in video[0])
    if not _on_all(finite, gang):
        raise NumericalError(_not_finite("decode"))
    frames = video[0].transpose(1, 2, 3, 0)
    return np.clip(frames * np.float32(0.5) + np.float32(0.5), 0, 1)


def _not_finite(stage: str) -> str:
    return f"{stage}: values that are NaN or infinite; nothing is made of them"


def _on_all(fine: bool, gang: Group) -> bool:
    """Whether it is fine on all ranks: either all raise, or all go on."""
    if gang.size == 1:
        return fine
    # This module is read by workers that must not load MindSpore yet.
    from vidgen_dist import nn

    told = gang.all_gather(nn.from_numpy(np.array([fine], np.float32)), [1] * gang.size, what="health")
    return bool(nn.to_numpy(told.wait()).all())
