"""What the schedulers refuse, and what holds for them without a reference."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tests.references import case, cases
from vidgen_dist.errors import Refused
from vidgen_dist.request import RequestError
from vidgen_dist.schedulers import (
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    load_scheduler,
    tables,
)

COGVIDEOX = ("CogVideoXDDIMScheduler", "CogVideoXDPMScheduler")
SAMPLE = np.random.Generator(np.random.PCG64(1)).standard_normal((1, 3, 4, 2, 2)).astype(np.float32)


@pytest.mark.parametrize("name", cases())
def test_loads_what_checkpoints_hold(name: str) -> None:
    checkpoint = case(name).checkpoint
    config = json.loads((checkpoint / "scheduler" / "scheduler_config.json").read_text())
    scheduler = load_scheduler(config["_class_name"], config)
    assert type(scheduler).__name__ == config["_class_name"]
    assert scheduler.config["prediction_type"] == "v_prediction"
    # Zero terminal SNR: a render starts from noise alone.
    assert scheduler.alphas_cumprod[-1] == 0


def test_unknown_scheduler_is_refused() -> None:
    with pytest.raises(Refused, match=r"'PNDMScheduler'.*CogVideoXDDIMScheduler, CogVideoXDPMScheduler"):
        load_scheduler("PNDMScheduler", {})


@pytest.mark.parametrize("scheduler", COGVIDEOX)
@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"beta_schedule": "sigmoid"}, r"beta_schedule 'sigmoid' .*linear, scaled_linear, squaredcos_cap_v2"),
        ({"prediction_type": "flow"}, r"prediction_type 'flow' .*epsilon, sample, v_prediction"),
        ({"timestep_spacing": "karras"}, r"timestep_spacing 'karras' .*leading, linspace, trailing"),
        ({"timestep_spacing": ["leading"]}, r"timestep_spacing \['leading'\]"),
        ({"num_train_timesteps": 0}, r"num_train_timesteps 0 .*a whole number from 1"),
        ({"num_train_timesteps": 10.5}, r"num_train_timesteps 10.5"),
        ({"num_train_timesteps": True}, r"num_train_timesteps True"),
        ({"steps_offset": -1}, r"steps_offset -1 .*a whole number from 0"),
        ({"snr_shift_scale": 0}, r"snr_shift_scale 0 .*a number above 0"),
        ({"beta_end": 1.5}, r"beta_end 1.5 .*a number between 0 and 1"),
        ({"beta_start": None}, r"beta_start None"),
        ({"set_alpha_to_one": "yes"}, r"set_alpha_to_one 'yes' .*true or false"),
        ({"trained_betas": [0.1, 0.2]}, r"trained_betas \[0.1, 0.2\] .*1000 numbers"),
        ({"num_train_timesteps": 2, "trained_betas": [0.1, "0.2"]}, r"trained_betas"),
    ],
)
def test_a_config_that_cannot_be_is_refused(scheduler: str, config: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match=message) as refusal:
        load_scheduler(scheduler, config)
    assert scheduler in str(refusal.value)


def test_keys_of_the_file_itself_are_not_looked_at() -> None:
    scheduler = load_scheduler("CogVideoXDDIMScheduler", {"_class_name": "x", "_diffusers_version": "0.99"})
    assert "_class_name" not in scheduler.config


@pytest.mark.parametrize("scheduler", COGVIDEOX)
@pytest.mark.parametrize("steps", [0, 1001])
def test_steps_are_bounded_by_training(scheduler: str, steps: int) -> None:
    with pytest.raises(RequestError, match=rf"num_inference_steps: {steps} .*from 1 to .*1000"):
        load_scheduler(scheduler, {}).set_timesteps(steps)
    load_scheduler(scheduler, {}).set_timesteps(1000)


def test_a_step_beyond_training_is_refused() -> None:
    scheduler = load_scheduler("CogVideoXDDIMScheduler", {"steps_offset": 1})
    with pytest.raises(RequestError, match=r"steps: 1000 .*steps_offset 1 the first step is 1000"):
        scheduler.set_timesteps(1000)


def test_epsilon_has_no_clean_sample_without_signal() -> None:
    config = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "epsilon"}
    ddim, dpm = CogVideoXDDIMScheduler.from_config(config), CogVideoXDPMScheduler.from_config(config)
    ddim.set_timesteps(5)
    dpm.set_timesteps(5)
    rng = np.random.Generator(np.random.PCG64(0))
    assert not ddim.can_start_at(999)
    assert ddim.can_start_at(998)
    with pytest.raises(Refused, match="prediction_type: 'epsilon' is not allowed"):
        ddim.step(SAMPLE, 999, SAMPLE)
    with pytest.raises(Refused, match="prediction_type: 'epsilon' is not allowed"):
        dpm.step(SAMPLE, None, 999, None, SAMPLE, rng)


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_every_number_of_steps_gives_so_many_within_training(spacing: str) -> None:
    for steps in range(1, 1001):
        timesteps = tables.spaced_timesteps(spacing, steps, 1000, 0)
        assert len(timesteps) == steps
        assert timesteps[-1] >= 0
        assert timesteps[0] <= 999
        assert (np.diff(timesteps) < 0).all()


def test_ddim_follows_the_true_noise_back_to_the_clean_sample() -> None:
    scheduler = CogVideoXDDIMScheduler.from_config({"timestep_spacing": "trailing"})
    scheduler.set_timesteps(10)
    noise = np.random.Generator(np.random.PCG64(2)).standard_normal(SAMPLE.shape).astype(np.float32)
    latents = scheduler.add_noise(SAMPLE, noise, scheduler.timesteps[0])
    for t in scheduler.timesteps:
        latents = scheduler.step(noise, t, latents)
    np.testing.assert_allclose(latents, SAMPLE, atol=1e-5)


def test_dpm_ends_at_its_last_prediction_and_draws_as_the_reference_does() -> None:
    scheduler = CogVideoXDPMScheduler.from_config({"prediction_type": "sample"})
    scheduler.set_timesteps(4)
    rng = np.random.Generator(np.random.PCG64(3))
    latents, old, back = SAMPLE, None, None
    for t in scheduler.timesteps:
        latents, old = scheduler.step(SAMPLE + np.float32(t), old, t, back, latents, rng)
        back = t
    np.testing.assert_array_equal(latents, SAMPLE + np.float32(scheduler.timesteps[-1]))
    # Once at the first and the last step, twice at the two between.
    same = np.random.Generator(np.random.PCG64(3))
    same.standard_normal((6, *SAMPLE.shape))
    assert rng.standard_normal() == same.standard_normal()


def test_latents_keep_their_type() -> None:
    for dtype in (np.float16, np.float32, np.float64):
        latents = SAMPLE.astype(dtype)
        ddim = CogVideoXDDIMScheduler.from_config({"prediction_type": "v_prediction"})
        ddim.set_timesteps(3)
        assert ddim.step(latents, int(ddim.timesteps[1]), latents).dtype == dtype
        dpm = CogVideoXDPMScheduler.from_config({"prediction_type": "v_prediction"})
        dpm.set_timesteps(3)
        rng = np.random.Generator(np.random.PCG64(0))
        stepped, original = dpm.step(latents, None, int(dpm.timesteps[0]), None, latents, rng)
        assert stepped.dtype == original.dtype == dtype
        assert dpm.add_noise(latents, latents, 5).dtype == dtype


@pytest.mark.parametrize("scheduler", COGVIDEOX)
def test_unknown_key_is_named_in_a_warning(scheduler: str, caplog: pytest.LogCaptureFixture) -> None:
    load_scheduler(scheduler, {"thresholding": True, "_class_name": scheduler})
    assert caplog.messages == [f"config of {scheduler}: thresholding is not known and not used"]
