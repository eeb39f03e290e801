"""Adds LoRAs to weights as they are read: W + scale · B·A, in float32, rounded once to the weights' dtype."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from vidgen_dist.weights.tensors import TensorFiles

Read = Callable[[str, slice | None], np.ndarray]
"""Reads a tensor by its parameter's name: the rows (along axis 0) of the slice, or all of it."""


@dataclass(frozen=True)
class Term:
    """What a LoRA adds to one parameter of shape (R, ...). Nothing is kept in memory.

    Args:
        tensors: The LoRA's file.
        up: Key of the matrix B (N, r), for a convolution (N, r, 1, ...); or of a whole difference (N, ...).
        down: Key of the matrix A (r, ...); None for a whole difference.
        scale: What the product or difference is multiplied by.
        rows: Which of the N rows are the parameter's, one slice after the other.
        digest: The file's digest: terms of a file that has changed are not equal.
    """

    tensors: TensorFiles
    up: str
    down: str | None
    scale: float
    rows: tuple[slice, ...] = (slice(None),)
    digest: str = ""

    def added(self, part: slice | None) -> np.ndarray:
        """What is added to some rows of the parameter, or to all: float32 (rows, values per row)."""
        up = self._read(self.up)
        up = _flat(np.concatenate([up[rows] for rows in self.rows])[part or slice(None)])
        if self.down is not None:
            up = up @ _flat(self._read(self.down))
        return np.float32(self.scale) * up

    def _read(self, key: str) -> np.ndarray:
        return self.tensors.read(key).astype(np.float32)


def _flat(values: np.ndarray) -> np.ndarray:
    """A view (rows, values per row)."""
    return values.reshape(len(values), math.prod(values.shape[1:]))


Terms = Mapping[str, tuple[Term, ...]]
"""What LoRAs add to a model's parameters, by name, in the order in which it is added."""


def merged(read: Read, terms: Terms) -> Read:
    """A function that reads weights with the LoRAs added; float32 where there are any."""

    def read_merged(name: str, part: slice | None) -> np.ndarray:
        values = read(name, part)
        if name not in terms:
            return values
        values = values.astype(np.float32)
        for term in terms[name]:
            _flat(values)[:] += term.added(part)
        return values

    return read_merged
