"""Flow matching: every step against diffusers' (recorded by tests/references/make_schedulers.py), and what is
refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tests.references import HERE, largest_difference
from vidgen_dist.errors import Refused
from vidgen_dist.schedulers.flow_match import (
    FlowMatchConfig,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchSchedule,
)

with np.load(HERE / "schedulers" / "flow_match.npz") as archive:
    RECORDED = {name: archive[name] for name in archive.files}
RUNS: list[dict[str, Any]] = json.loads(str(RECORDED["runs"]))
SAMPLE = RECORDED["sample"]
NAME = "FlowMatchEulerDiscreteScheduler"


def load(config: dict[str, Any]) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(FlowMatchConfig.read(config))


def scheduled(run: dict[str, Any]) -> FlowMatchSchedule:
    scheduler = load(run["config"])
    arguments = dict(run["arguments"])
    if "tokens" in arguments:
        arguments["mu"] = scheduler.mu(arguments.pop("tokens"))
    return scheduler.schedule(**arguments)


@pytest.mark.parametrize("k", range(len(RUNS)))
def test_schedule_is_diffusers(k: int) -> None:
    schedule = scheduled(RUNS[k])
    assert schedule.sigmas.dtype == schedule.timesteps.dtype == np.float32
    assert largest_difference(schedule.sigmas, RECORDED[f"{k}.sigmas"]) <= 1e-6
    assert largest_difference(schedule.timesteps, RECORDED[f"{k}.timesteps"]) <= 1e-3


@pytest.mark.parametrize("k", range(len(RUNS)))
def test_steps_are_diffusers(k: int) -> None:
    schedule = scheduled(RUNS[k])
    rng = np.random.Generator(np.random.PCG64(RUNS[k]["seed"]))
    sample = SAMPLE
    for i in range(len(schedule)):
        sample, memory = schedule.step(RECORDED["model_outputs"][i], i, sample, {}, rng)
        assert not memory
    assert sample.dtype == np.float32
    assert largest_difference(sample, RECORDED[f"{k}.samples"][-1]) <= 5e-6


def test_the_grid_covers_what_pipelines_ask_for() -> None:
    said = {key for run in RUNS for key in run["arguments"]}
    assert said == {"sigmas", "tokens"}
    assert any("timesteps" in run["config"] for run in RUNS)
    spacings = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
    for key in ("invert_sigmas", "shift_terminal", "stochastic_sampling", *spacings):
        assert any(run["config"].get(key) for run in RUNS)


def test_the_true_direction_leads_to_the_clean_sample() -> None:
    schedule = load({"shift": 3.0}).schedule(np.linspace(1, 1 / 6, 6))
    noise, rng = RECORDED["model_outputs"][0], np.random.default_rng(0)
    latents = schedule.sigmas[0] * noise + (1 - schedule.sigmas[0]) * SAMPLE
    for i in range(6):
        latents, _ = schedule.step(noise - SAMPLE, i, latents, {}, rng)
    np.testing.assert_allclose(latents, SAMPLE, atol=1e-5)


def test_the_shift_grows_along_a_line() -> None:
    scheduler = load(RUNS[0]["config"])
    assert scheduler.mu(1024) == pytest.approx(0.95)
    assert scheduler.mu(4096) == pytest.approx(2.05)
    assert scheduler.mu(2560) == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"time_shift_type": "cubic"}, r"time_shift_type is 'cubic'; .*one of exponential, linear"),
        (
            {"use_karras_sigmas": True, "use_beta_sigmas": True},
            r"use_karras_sigmas is True; .*false where use_beta",
        ),
        ({"invert_sigmas": 1}, r"invert_sigmas is 1; .*true or false"),
        ({"num_train_timesteps": 0}, r"num_train_timesteps is 0; .*a whole number from 1"),
        ({"max_image_seq_len": 256}, r"max_image_seq_len is 256; .*another number than base_image_seq_len"),
        ({"shift": 0}, r"shift is 0; .*a number above 0"),
        ({"base_shift": None}, r"base_shift is None; .*a number"),
        ({"timesteps": [1001.0]}, r"timesteps is .*null or descending numbers from 1000 at most"),
        ({"timesteps": [9, 9.0]}, r"timesteps is .*null or descending"),
        (
            {"timesteps": [9], "use_beta_sigmas": True},
            r"use_beta_sigmas is True; .*false where the config has",
        ),
        ({"shift_terminal": 1}, r"shift_terminal is 1; .*a number from 0 below 1 or null"),
    ],
)
def test_a_config_that_cannot_be_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match=f"^config of {NAME}: {message}"):
        load(config)


def test_a_single_step_cannot_be_stretched() -> None:
    with pytest.raises(Refused, match=r"num_inference_steps: 1 .*2 or more: .*shift_terminal 0\.1"):
        load(RUNS[0]["config"]).schedule(np.ones(1), mu=1.0)


def test_a_dynamic_shift_needs_mu() -> None:
    with pytest.raises(ValueError, match="mu: is missing, and the config has use_dynamic_shifting"):
        load(RUNS[0]["config"]).schedule(np.linspace(1, 1 / 4, 4))


def test_a_key_that_the_reference_does_not_know_either() -> None:
    raw = {"thresholding": True, "_class_name": NAME}
    load(raw)
    assert FlowMatchConfig.unknown(raw) == {"thresholding": True}
