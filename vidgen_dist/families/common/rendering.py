"""What all pipelines share beside the loop: a rendering and its state, stage times, noise, pixels."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
from PIL import Image

from vidgen_dist.errors import RowError
from vidgen_dist.parallel.collectives import Group, holds_on_all
from vidgen_dist.schedulers.schedule import Schedule

OnProgress = Callable[[str, int, int], None]
"""Called with (stage, steps done, steps in all) when a stage begins and after each of its steps; it shows
that a rendering is alive. A stage without steps has one, whose end is not reported."""


class NumericalError(RowError, ValueError):
    """Values are NaN or infinite, so there is no video; the message names the stage and the step."""


@dataclass(frozen=True)
class Rendering:
    """A finished video.

    Args:
        frames: float32 (frames, height, width, 3) in [0, 1]; without rows on all ranks of a gang but the
            first.
        seconds: Seconds per stage: `encode`, `denoise`, `decode`.
        sent: Bytes that this rank sent to other ranks of its gang, by purpose.
        loras_changed: Whether the LoRAs in the weights were changed for it.
    """

    frames: np.ndarray
    seconds: dict[str, float]
    sent: dict[str, int] = field(default_factory=dict)
    loras_changed: bool = False


@dataclass(frozen=True, eq=False)
class ResumeState:
    """A rendering between two denoising steps: all that the remaining steps need in addition to the request.

    States are saved, and used by later releases: see `FORMAT` in `output/resume_states.py` before you change
    what is in them, or what steps make of it.

    Args:
        step: Number of steps done.
        arrays: Name -> array: the latents, and what the sampler remembers of earlier steps. Must not be
            written to.
        rng: State of the generator that all noise is drawn from, as its `bit_generator` returns it.
    """

    step: int
    arrays: Mapping[str, np.ndarray]
    rng: Mapping[str, Any]


OnState = Callable[[ResumeState], None]
"""Called after each denoising step. Rendering the same request from that state gives the same frames; with
another number of ranks equal to 1e-4, as always."""


@dataclass
class StageClock:
    """Measures the seconds of each stage of a rendering, and reports its progress.

    Args:
        on_progress: Called with the stage and its steps; None: progress is not reported.
        seconds: Stage -> seconds.
    """

    on_progress: OnProgress | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    def report(self, stage: str, done: int, steps: int) -> None:
        """Report how many steps of a stage are done."""
        if self.on_progress is not None:
            self.on_progress(stage, done, steps)

    @contextmanager
    def stage(self, name: str, steps: int = 1) -> Iterator[None]:
        """Time a stage, and report its beginning.

        Args:
            name: The stage.
            steps: Its number of steps.
        """
        self.report(name, 0, steps)
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begun


def seeded(seed: int) -> np.random.Generator:
    """The generator that all noise of one video is drawn from, in the reference pipeline's order."""
    return np.random.Generator(np.random.PCG64(seed))


def draw_noise(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Standard normal noise, float32.

    Args:
        rng: The video's generator, see `seeded`.
        shape: Shape of the noise.
        dtype: The dtype that it is rounded to, the model's.
    """
    return round_to(rng.standard_normal(shape), dtype)


def starting_noise(
    rng: np.random.Generator, shape: tuple[int, ...], schedule: Schedule, dtype: str
) -> np.ndarray:
    """Noise with a schedule's starting standard deviation, rounded to the model's dtype, as float32."""
    return round_to(draw_noise(rng, shape, dtype) * np.float32(schedule.init_noise_sigma), dtype)


def round_to(values: np.ndarray, dtype: str) -> np.ndarray:
    """Values as a model has them, float32.

    Args:
        values: The values.
        dtype: The dtype that they are rounded to: `float32`, `float16` or `bfloat16`.
    """
    held = values.astype(_NUMPY_DTYPES[dtype], copy=False)
    return held.astype(np.float32, copy=False)


_NUMPY_DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def to_pixels(images: Sequence[Image.Image], height: int, width: int) -> np.ndarray:
    """Images as a VAE takes them, resized as diffusers' VideoProcessor does.

    Args:
        images: The video's frames.
        height, width: Size in pixels that they are resized to.

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
    """Raise if values are not finite; for values that are equal on every rank of a gang.

    Args:
        values: Encoded texts or latents, which are small.
        stage: The stage of the rendering, and its step: `denoise, step 3 of 50`.

    Raises:
        NumericalError: A value is NaN or infinite.
    """
    if not np.isfinite(values).all():
        raise NumericalError(_not_finite(stage))


def to_frames(video: np.ndarray, gang: Group) -> np.ndarray:
    """Turn a VAE's output (1, 3, F, H, W) around [-1, 1] into frames (F, H, W, 3) in [0, 1].

    Args:
        video: The first rank's output; that of other ranks has no rows.
        gang: All ranks, which call this together.

    Raises:
        NumericalError: A value is NaN or infinite; raised on all ranks.
    """
    # Channel by channel to save memory; and before clipping turns infinity into white.
    finite = all(np.isfinite(channel).all() for channel in video[0])
    if not holds_on_all(finite, gang, "health"):
        raise NumericalError(_not_finite("decode"))
    frames = video[0].transpose(1, 2, 3, 0)
    return np.clip(frames * np.float32(0.5) + np.float32(0.5), 0, 1)


def _not_finite(stage: str) -> str:
    return f"{stage}: values are NaN or infinite; no video is made of them"
