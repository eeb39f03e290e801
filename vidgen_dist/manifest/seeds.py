"""The seeds of rows that have none."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np


def row_seed(run_seed: int, row_id: str) -> int:
    """The seed of a row that has none: 0 to 2**63 - 1, always the same for this run's seed and this id."""
    return row_seeds(run_seed, [row_id])[0]


def row_seeds(run_seed: int, row_ids: Iterable[str]) -> list[int]:
    """`row_seed` for many rows."""
    copy = hashlib.sha256(f"{run_seed}/".encode()).copy
    digests = []
    for row_id in row_ids:
        digest = copy()
        digest.update(row_id.encode("utf-8", "surrogatepass"))
        digests.append(digest.digest())
    first = np.frombuffer(b"".join(digests), ">u8")[::4]
    seeds: list[int] = (first >> np.uint64(1)).tolist()
    return seeds
