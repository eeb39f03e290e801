"""Every step of diffusers' samplers against its own (tests/references/make_schedulers.py says how recorded)."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tests.references import HERE, largest_difference
from vidgen_dist.families.common import components
from vidgen_dist.families.family import SchedulerClass
from vidgen_dist.schedulers.schedule import Schedule

with np.load(HERE / "schedulers" / "samplers.npz") as archive:
    RECORDED = {name: archive[name] for name in archive.files}
RUNS: list[dict[str, Any]] = json.loads(str(RECORDED["runs"]))
CLASSES = {known.name: known for known in vars(components).values() if isinstance(known, SchedulerClass)}
ALL = range(len(RUNS))
TOLERANCE = 1e-5


def _name(k: int) -> str:
    run = RUNS[k]
    return f"{k}-{run['scheduler'].removesuffix('Scheduler')}-{run['num_inference_steps']}"


def _scheduler(k: int) -> Any:
    return CLASSES[RUNS[k]["scheduler"]].read(RUNS[k]["config"])


def _scheduled(k: int) -> Schedule:
    schedule: Schedule = _scheduler(k).schedule(RUNS[k]["num_inference_steps"], eta=RUNS[k]["eta"])
    return schedule


def _rng(k: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(RUNS[k]["seed"]))


def _begun(schedule: Schedule) -> np.ndarray:
    return RECORDED["sample"] * np.float32(schedule.init_noise_sigma)


def _difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference, beside the largest value: σ of 700 scales its rounding too."""
    assert ours.dtype == np.float32
    return largest_difference(ours, theirs) / max(1.0, float(np.abs(theirs).max()))


@pytest.mark.parametrize("k", ALL, ids=_name)
def test_schedule_is_diffusers(k: int) -> None:
    schedule = _scheduled(k)
    timesteps = RECORDED[f"{k}.timesteps"]
    assert schedule.timesteps.dtype == timesteps.dtype
    assert len(schedule) == len(timesteps) == _scheduler(k).predictions(RUNS[k]["num_inference_steps"])
    if timesteps.dtype == np.int64:
        np.testing.assert_array_equal(schedule.timesteps, timesteps)
    else:
        np.testing.assert_allclose(schedule.timesteps, timesteps, rtol=1e-6, atol=1e-3)
    assert schedule.init_noise_sigma == pytest.approx(float(RECORDED[f"{k}.init"]), rel=1e-6)
    if f"{k}.sigmas" in RECORDED:
        np.testing.assert_allclose(schedule.sigmas, RECORDED[f"{k}.sigmas"], rtol=2e-6)


@pytest.mark.parametrize("k", ALL, ids=_name)
def test_steps_are_diffusers(k: int) -> None:
    schedule, rng = _scheduled(k), _rng(k)
    sample, memory, worst = _begun(schedule), {}, 0.0
    for i in range(len(schedule)):
        shown = schedule.scale_model_input(sample, i)
        worst = max(worst, _difference(shown, RECORDED[f"{k}.shown"][i]))
        sample, memory = schedule.step(RECORDED["model_outputs"][i], i, sample, memory, rng)
        worst = max(worst, _difference(sample, RECORDED[f"{k}.samples"][i]))
        if i >= 0:
            pass
    print(f"W {worst:.2e} {RUNS[k]}")
    assert worst <= TOLERANCE
