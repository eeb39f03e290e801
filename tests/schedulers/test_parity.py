"""Every step of the schedulers against diffusers' (recorded by tests/references/make_schedulers.py)."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tests.references import HERE, largest_difference
from vidgen_dist.schedulers.cogvideox import CogVideoXScheduler
from vidgen_dist.schedulers.cogvideox_ddim import CogVideoXDDIMConfig, CogVideoXDDIMScheduler
from vidgen_dist.schedulers.cogvideox_dpm import CogVideoXDPMConfig, CogVideoXDPMScheduler
from vidgen_dist.schedulers.schedule import Memory

with np.load(HERE / "schedulers" / "steps.npz") as archive:
    RECORDED = {name: archive[name] for name in archive.files}
RUNS: list[dict[str, Any]] = json.loads(str(RECORDED["runs"]))
TOLERANCE = 2e-6


def _scheduler(run: dict[str, Any]) -> CogVideoXScheduler:
    if run["scheduler"] == CogVideoXDDIMConfig.NAME:
        return CogVideoXDDIMScheduler(CogVideoXDDIMConfig.read(run["config"]))
    assert run["scheduler"] == CogVideoXDPMConfig.NAME
    return CogVideoXDPMScheduler(CogVideoXDPMConfig.read(run["config"]))


def _name(k: int) -> str:
    run = RUNS[k]
    keys = ("timestep_spacing", "prediction_type", "beta_schedule", "snr_shift_scale")
    parts = [run["scheduler"].removeprefix("CogVideoX").removesuffix("Scheduler")]
    parts += [str(run["config"][key]) for key in keys if key in run["config"]]
    return "-".join([*parts, str(run["num_inference_steps"])])


def _assert_close(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.dtype == np.float32
    # x₀ is computed from a predicted ε by dividing by √ᾱ, which also magnifies the rounding error.
    scale = max(1.0, float(np.abs(theirs).max()))
    assert largest_difference(ours, theirs) <= TOLERANCE * scale


@pytest.mark.parametrize("k", range(len(RUNS)), ids=_name)
def test_schedule_is_diffusers(k: int) -> None:
    scheduler = _scheduler(RUNS[k])
    schedule = scheduler.schedule(RUNS[k]["num_inference_steps"])

    assert schedule.timesteps.dtype == np.int64
    np.testing.assert_array_equal(schedule.timesteps, RECORDED[f"{k}.timesteps"])
    np.testing.assert_allclose(scheduler.alphas_cumprod[::37], RECORDED[f"{k}.alphas"], rtol=1e-6, atol=1e-9)
    assert scheduler.alphas_cumprod.dtype == RECORDED[f"{k}.alphas"].dtype
    for i, noised in zip(range(len(schedule)), RECORDED[f"{k}.noised"], strict=True):
        left = schedule.skip(i)
        _assert_close(left.add_noise(RECORDED["sample"], RECORDED["model_outputs"][0]), noised)


def _is_linear(config: dict[str, Any]) -> bool:
    return config.get("beta_schedule") == "linear" and not config.get("rescale_betas_zero_snr")


@pytest.mark.parametrize("k", [k for k, run in enumerate(RUNS) if _is_linear(run["config"])], ids=_name)
def test_linear_schedule_is_diffusers_to_the_last_bit(k: int) -> None:
    scheduler = _scheduler(RUNS[k])
    np.testing.assert_array_equal(scheduler.alphas_cumprod[::37], RECORDED[f"{k}.alphas"])


@pytest.mark.parametrize("k", range(len(RUNS)), ids=_name)
def test_steps_are_diffusers(k: int) -> None:
    run = RUNS[k]
    scheduler = _scheduler(run)
    schedule = scheduler.schedule(run["num_inference_steps"])
    rng = np.random.Generator(np.random.PCG64(run["seed"]))
    sample: np.ndarray = RECORDED["sample"]
    memory: Memory = {}
    for i in range(len(schedule)):
        stepped, memory = schedule.step(RECORDED["model_outputs"][i], i, sample, memory, rng)
        _assert_close(stepped, RECORDED[f"{k}.samples"][i])
        # Each step starts from the reference's own latents, so that errors do not add up.
        sample = RECORDED[f"{k}.samples"][i]
        assert ("previous" in memory) == isinstance(scheduler, CogVideoXDPMScheduler)
        if "previous" in memory:
            _assert_close(memory["previous"], RECORDED[f"{k}.originals"][i])
            memory = {"previous": RECORDED[f"{k}.originals"][i]}


@pytest.mark.parametrize(
    "k", [k for k, run in enumerate(RUNS) if run["num_inference_steps"] == 50], ids=_name
)
def test_fifty_steps_in_a_row(k: int) -> None:
    schedule = _scheduler(RUNS[k]).schedule(50)
    rng = np.random.Generator(np.random.PCG64(RUNS[k]["seed"]))
    sample: np.ndarray = RECORDED["sample"]
    memory: Memory = {}
    for i, output in zip(range(len(schedule)), RECORDED["model_outputs"], strict=True):
        sample, memory = schedule.step(output, i, sample, memory, rng)
    difference = largest_difference(sample, RECORDED[f"{k}.samples"][-1])
    print(f"largest difference after 50 steps: {difference:.2e}")
    assert difference <= 1e-5


def test_the_grid_covers_every_choice() -> None:
    configs = [run["config"] for run in RUNS]
    assert {c.get("timestep_spacing") for c in configs} >= {"leading", "linspace", "trailing"}
    assert {c.get("prediction_type") for c in configs} >= {"epsilon", "sample", "v_prediction"}
    assert {c.get("beta_schedule") for c in configs} >= {"linear", "scaled_linear", "squaredcos_cap_v2"}
    assert any(run["eta"] > 0 for run in RUNS)
