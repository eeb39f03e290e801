"""A schedule: the steps of one rendering, as a value.

A scheduler is made from a checkpoint's config, and makes one schedule for each rendering. Steps have numbers,
and what a sampler remembers of earlier steps is passed in and out as named arrays, so a rendering can be
saved after any step and resumed there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Memory = Mapping[str, np.ndarray]
"""What a sampler remembers of earlier steps, by name. The arrays must not be written to."""


@dataclass(frozen=True, eq=False)
class Schedule(ABC):
    """The steps of one rendering.

    Args:
        timesteps: The time that the model is given, one for each prediction: (S,).
    """

    timesteps: np.ndarray

    def __len__(self) -> int:
        """How many predictions are made."""
        return len(self.timesteps)

    @property
    def init_noise_sigma(self) -> float:
        """Standard deviation of the latents that a rendering starts from."""
        return 1.0

    def scale_model_input(self, sample: np.ndarray, i: int) -> np.ndarray:
        """Latents before the i-th step, in the form that the model gets."""
        return sample

    @abstractmethod
    def step(
        self, prediction: np.ndarray, i: int, sample: np.ndarray, memory: Memory, rng: np.random.Generator
    ) -> tuple[np.ndarray, Memory]:
        """The latents after the i-th step, in `sample`'s shape, and what the sampler remembers.

        Args:
            prediction: The model's prediction, in `sample`'s shape.
            i: The step's number, from 0.
            sample: Latents before the step.
            memory: What the step before returned; empty before the first.
            rng: Noise is drawn from it.
        """
