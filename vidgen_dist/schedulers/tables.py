"""Tables of a discrete noise schedule: ᾱ of every training step, and the steps that a rendering uses.

Sources: DDPM (Ho et al. 2020) for ᾱ; "Common Diffusion Noise Schedules and Sample Steps are Flawed" (Lin
et al. 2023) for the zero terminal SNR (algorithm 1) and the spacings (table 2); CogVideoX (Yang et al.
2024) for the shift of the SNR. Dtypes follow diffusers 0.35, where the schedule decides whether ᾱ is
float32 or float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np


def betas(
    schedule: str,
    start: float,
    end: float,
    num_train_timesteps: int,
    trained: Sequence[float] | None = None,
    *,
    double: bool = False,
) -> np.ndarray:
    """Variance added by each training step, shape (num_train_timesteps,).

    Args:
        schedule: `linear`, `scaled_linear` (linear in the standard deviation) or `squaredcos_cap_v2`.
        start, end: First and last variance; `squaredcos_cap_v2` ignores them.
        trained: The variances themselves, instead of all other arguments.
        double: Whether `scaled_linear` is float64, as in CogVideoX's samplers.

    Returns:
        float32, unless `double`.
    """
    if trained is not None:
        return np.asarray(trained, np.float32)
    if schedule == "linear":
        return line(start, end, num_train_timesteps)
    if schedule == "scaled_linear":
        ends = start**0.5, end**0.5
        return (np.linspace(*ends, num_train_timesteps) if double else line(*ends, num_train_timesteps)) ** 2
    if schedule == "squaredcos_cap_v2":
        return _squared_cosine(num_train_timesteps)
    raise ValueError(f"unknown schedule of betas: {schedule!r}")


def line(start: float, end: float, count: int) -> np.ndarray:
    """What torch's float32 linspace gives, bit for bit: computed from both ends, each number rounded once.

    Where ᾱ is close to 1, one bit of it is a large part of the remaining noise.
    """
    first, last = np.float32(start), np.float32(end)
    step = (last - first) / np.float32(max(count - 1, 1))
    steps = np.arange(count) * np.float64(step)
    line = np.where(np.arange(count) < count // 2, first + steps, last - steps[::-1])
    return (line if count > 1 else np.array([first])).astype(np.float32)


def _squared_cosine(num_train_timesteps: int, largest: float = 0.999) -> np.ndarray:
    """Betas whose ᾱ falls like cos² (Nichol and Dhariwal 2021), each at most `largest`."""

    def alpha_bar(share: float) -> float:
        return math.cos((share + 0.008) / 1.008 * math.pi / 2) ** 2

    shares = [step / num_train_timesteps for step in range(num_train_timesteps + 1)]
    ratios = [alpha_bar(after) / alpha_bar(before) for before, after in pairwise(shares)]
    return np.array([min(1 - ratio, largest) for ratio in ratios], np.float32)


def without_last_signal(betas: np.ndarray) -> np.ndarray:
    """Betas that leave no signal after the last step, in the same dtype.

    Algorithm 1 of Lin et al. 2023 ends with betas; CogVideoX's samplers use the ᾱ before that
    (`alphas_cumprod`).
    """
    stretched = _stretched(alphas_cumprod(betas))
    return 1 - np.append(stretched[:1], stretched[1:] / stretched[:-1])


def alphas_cumprod(
    betas: np.ndarray, snr_shift_scale: float = 1.0, zero_terminal_snr: bool = False
) -> np.ndarray:
    """ᾱ: the signal's share of the variance after each training step, in `betas`' dtype.

    Args:
        snr_shift_scale: Divides the signal-to-noise ratio; 1 has no effect.
        zero_terminal_snr: Stretch √ᾱ so that no signal is left after the last step.
    """
    # torch accumulates a float32 product in float64.
    alphas = np.cumprod(1 - betas, dtype=np.float64).astype(betas.dtype)
    alphas = alphas / (snr_shift_scale + (1 - snr_shift_scale) * alphas)
    if zero_terminal_snr:
        alphas = _stretched(alphas)
    return alphas.astype(betas.dtype)


def _stretched(alphas_cumprod: np.ndarray) -> np.ndarray:
    """√ᾱ shifted to 0 at the end and stretched to its old value at the beginning; squared again."""
    roots = np.sqrt(alphas_cumprod)
    return ((roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))) ** 2


def spaced_timesteps(
    spacing: str, num_inference_steps: int, num_train_timesteps: int, steps_offset: int
) -> np.ndarray:
    """The training steps that a rendering uses, descending, int64 of shape (num_inference_steps,).

    Args:
        spacing: `linspace`, `leading` or `trailing`.
        steps_offset: Added to every step; only for `leading`.
    """
    if spacing == "linspace":
        return np.linspace(0, num_train_timesteps - 1, num_inference_steps).round()[::-1].astype(np.int64)
    if spacing == "leading":
        stride = num_train_timesteps // num_inference_steps
        return np.arange(num_inference_steps, dtype=np.int64)[::-1] * stride + steps_offset
    if spacing == "trailing":
        steps = np.arange(num_train_timesteps, 0, -num_train_timesteps / num_inference_steps).round() - 1
        # If the stride's rounding adds up (with 61 steps of 1000, and 61 other numbers), arange goes one step
        # too far, to -1. diffusers takes that step, and its last x₀ is then noise.
        return steps[:num_inference_steps].astype(np.int64)
    raise ValueError(f"unknown spacing of timesteps: {spacing!r}")
