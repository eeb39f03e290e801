"""A schedule: the steps of one rendering, as a value.

A scheduler, made from a checkpoint's config, makes one for each rendering. Steps go by their number, and what
a sampler remembers of earlier ones is handed in and out as named arrays: so a rendering can be saved between
any two steps and gone on with.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Memory = Mapping[str, np.ndarray]
"""What a sampler remembers of earlier steps, by name. Nobody writes to the arrays."""


@dataclass(frozen=True, eq=False)
class Schedule(ABC):
    """The steps of one rendering.

    Args:
        timesteps: The time that the model is given, one for each prediction: (S,).
    """

    timesteps: np.ndarray

    def __len__(self) -> int:
        """Predictions that are made."""
        return len(self.timesteps)

    @property
    def init_noise_sigma(self) -> float:
        """Standard deviation of the latents that a rendering starts from."""
        return 1.0

    def scale_model_input(self, sample: np.ndarray, i: int) -> np.ndarray:
        """What the model is shown of latents before the i-th step."""
        return sample

    @abstractmethod
    def step(
        self, prediction: np.ndarray, i: int, sample: np.ndarray, memory: Memory, rng: np.random.Generator
    ) -> tuple[np.ndarray, Memory]:
        """Latents after the i-th step, in the shape of `sample`, and what is remembered of it.

        Args:
            prediction: The model's, of `sample`'s shape.
            i: The step's number, from 0.
            sample: Latents before the step.
            memory: What the step before gave; empty before the first.
            rng: What noise is drawn from.
        """
