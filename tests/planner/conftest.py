"""Runs of published checkpoints: building the models for their parameters takes most of a test's time."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import pytest

from tests.planner import published
from vidgen_dist.families.rules import compute_dtype
from vidgen_dist.planner.checkpoints import Job
from vidgen_dist.planner.devices import find_device


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Job]:
    """`job(name, device="910B")`, each model counted once."""

    @functools.cache
    def counted(name: str) -> Job:
        return published.job(tmp_path_factory.mktemp("published"), name)

    def make(name: str, device: str = "910B") -> Job:
        found = find_device(device)
        dtype = compute_dtype(None, found.kind)
        return dataclasses.replace(counted(name), device=found, dtype=dtype, memory=found.memory)

    return make
