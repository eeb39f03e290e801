"""Runs of published checkpoints: building the models for their parameters takes most of a test's time."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import pytest

from tests.planner import published
from vidgen_dist.families.rules import compute_dtype
from vidgen_dist.planner.devices import find_device
from vidgen_dist.planner.planned_run import PlannedRun


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., PlannedRun]:
    """`run(name, device="910B")`, each model counted once."""

    @functools.cache
    def counted(name: str) -> PlannedRun:
        return published.run(tmp_path_factory.mktemp("published"), name)

    def make(name: str, device: str = "910B") -> PlannedRun:
        found = find_device(device)
        dtype = compute_dtype(None, found.kind)
        return dataclasses.replace(counted(name), device=found, dtype=dtype, memory=found.memory)

    return make
