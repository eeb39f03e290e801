"""What the schedulers refuse, and properties that need no reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.references import case, cases, edit_json
from vidgen_dist.errors import Refused
from vidgen_dist.families.cogvideox import FAMILY
from vidgen_dist.request import RequestError
from vidgen_dist.schedulers import tables
from vidgen_dist.schedulers.cogvideox import CogVideoXScheduler
from vidgen_dist.schedulers.cogvideox_ddim import CogVideoXDDIMConfig, CogVideoXDDIMScheduler
from vidgen_dist.schedulers.cogvideox_dpm import CogVideoXDPMConfig, CogVideoXDPMScheduler
from vidgen_dist.schedulers.schedule import Memory
from vidgen_dist.weights.checkpoint import open_checkpoint

COGVIDEOX = ("CogVideoXDDIMScheduler", "CogVideoXDPMScheduler")
SAMPLE = np.random.Generator(np.random.PCG64(1)).standard_normal((1, 3, 4, 2, 2)).astype(np.float32)


def ddim_of(config: dict[str, Any]) -> CogVideoXDDIMScheduler:
    return CogVideoXDDIMScheduler(CogVideoXDDIMConfig.read(config))


def dpm_of(config: dict[str, Any]) -> CogVideoXDPMScheduler:
    return CogVideoXDPMScheduler(CogVideoXDPMConfig.read(config))


def scheduler_of(name: str, config: dict[str, Any]) -> CogVideoXScheduler:
    return {"CogVideoXDDIMScheduler": ddim_of, "CogVideoXDPMScheduler": dpm_of}[name](config)


def rng_of(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


@pytest.mark.parametrize("name", cases())
def test_loads_what_checkpoints_hold(name: str) -> None:
    folder = case(name).checkpoint
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    scheduler = FAMILY.read_configs(open_checkpoint(folder, variant=case(name).variant)).scheduler
    assert type(scheduler).__name__ == config["_class_name"]
    assert scheduler.config.prediction_type == "v_prediction"
    # Zero terminal SNR: a rendering starts from pure noise.
    assert scheduler.alphas_cumprod[-1] == 0


def test_unknown_scheduler_is_refused(tmp_path: Path) -> None:
    folder = case("5b").copy_checkpoint(tmp_path)
    edit_json(folder / "model_index.json", scheduler=["diffusers", "PNDMScheduler"])
    with pytest.raises(Refused, match=r"PNDMScheduler; .*CogVideoXDDIMScheduler, CogVideoXDPMScheduler"):
        FAMILY.read_configs(open_checkpoint(folder))


@pytest.mark.parametrize("scheduler", COGVIDEOX)
@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"beta_schedule": "sigmoid"},
            r"beta_schedule is 'sigmoid'; .*linear, scaled_linear, squaredcos_cap_v2",
        ),
        ({"prediction_type": "flow"}, r"prediction_type is 'flow'; .*epsilon, sample, v_prediction"),
        ({"timestep_spacing": "karras"}, r"timestep_spacing is 'karras'; .*leading, linspace, trailing"),
        ({"timestep_spacing": ["leading"]}, r"timestep_spacing is \['leading'\]"),
        ({"num_train_timesteps": 0}, r"num_train_timesteps is 0; .*a whole number from 1"),
        ({"num_train_timesteps": 10.5}, r"num_train_timesteps is 10.5"),
        ({"num_train_timesteps": True}, r"num_train_timesteps is True"),
        ({"steps_offset": -1}, r"steps_offset is -1; .*a whole number from 0"),
        ({"snr_shift_scale": 0}, r"snr_shift_scale is 0; .*a number above 0"),
        ({"beta_end": 1.5}, r"beta_end is 1.5; .*a number above 0 below 1"),
        ({"beta_start": None}, r"beta_start is None"),
        ({"set_alpha_to_one": "yes"}, r"set_alpha_to_one is 'yes'; .*true or false"),
        ({"trained_betas": [0.1, 0.2]}, r"trained_betas is \(0.1, 0.2\); .*1000 numbers"),
        ({"num_train_timesteps": 2, "trained_betas": [0.1, "0.2"]}, r"trained_betas"),
    ],
)
def test_a_config_that_cannot_be_is_refused(scheduler: str, config: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match=message) as refusal:
        scheduler_of(scheduler, config)
    assert scheduler in str(refusal.value)


def test_keys_of_the_file_itself_are_not_looked_at(caplog: pytest.LogCaptureFixture) -> None:
    scheduler = ddim_of({"_class_name": "x", "_diffusers_version": "0.99"})
    assert scheduler.config == CogVideoXDDIMConfig()
    assert not hasattr(scheduler.config, "_class_name")
    assert not caplog.messages


@pytest.mark.parametrize("scheduler", COGVIDEOX)
@pytest.mark.parametrize("steps", [0, 1001])
def test_steps_are_bounded_by_training(scheduler: str, steps: int) -> None:
    with pytest.raises(RequestError, match=rf"num_inference_steps: {steps} .*from 1 to .*1000"):
        scheduler_of(scheduler, {}).schedule(steps)
    scheduler_of(scheduler, {}).schedule(1000)


def test_a_step_beyond_training_is_refused() -> None:
    scheduler = ddim_of({"steps_offset": 1})
    with pytest.raises(RequestError, match=r"steps: 1000 .*steps_offset 1 the first step is 1000"):
        scheduler.schedule(1000)


def test_epsilon_has_no_clean_sample_without_signal() -> None:
    config = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "epsilon"}
    ddim, dpm = ddim_of(config), dpm_of(config)
    assert not ddim.can_start_at(999)
    assert ddim.can_start_at(998)
    for schedule in (ddim.schedule(5), dpm.schedule(5)):
        assert schedule.timesteps[0] == 999
        with pytest.raises(Refused, match="prediction_type: 'epsilon' is not allowed"):
            schedule.step(SAMPLE, 0, SAMPLE, {}, rng_of(0))


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_every_number_of_steps_gives_so_many_within_training(spacing: str) -> None:
    for steps in range(1, 1001):
        timesteps = tables.spaced_timesteps(spacing, steps, 1000, 0)
        assert len(timesteps) == steps
        assert timesteps[-1] >= 0
        assert timesteps[0] <= 999
        assert (np.diff(timesteps) < 0).all()


def test_ddim_follows_the_true_noise_back_to_the_clean_sample() -> None:
    schedule = ddim_of({"timestep_spacing": "trailing"}).schedule(10)
    noise = rng_of(2).standard_normal(SAMPLE.shape).astype(np.float32)
    latents = schedule.add_noise(SAMPLE, noise)
    for i in range(len(schedule)):
        latents, _ = schedule.step(noise, i, latents, {}, rng_of(0))
    np.testing.assert_allclose(latents, SAMPLE, atol=1e-5)


def test_dpm_ends_at_its_last_prediction_and_draws_as_the_reference_does() -> None:
    schedule = dpm_of({"prediction_type": "sample"}).schedule(4)
    rng, latents = rng_of(3), SAMPLE
    memory: Memory = {}
    for i, t in enumerate(schedule.timesteps):
        latents, memory = schedule.step(SAMPLE + np.float32(t), i, latents, memory, rng)
    np.testing.assert_array_equal(latents, SAMPLE + np.float32(schedule.timesteps[-1]))
    # Once in the first and the last step, twice in the two between.
    same = rng_of(3)
    same.standard_normal((6, *SAMPLE.shape))
    assert rng.standard_normal() == same.standard_normal()


def test_ddim_draws_nothing() -> None:
    rng = rng_of(3)
    ddim_of({}).schedule(4).step(SAMPLE, 1, SAMPLE, {}, rng)
    assert rng.standard_normal() == rng_of(3).standard_normal()


def test_latents_keep_their_type() -> None:
    for dtype in (np.float16, np.float32, np.float64):
        latents = SAMPLE.astype(dtype)
        ddim = ddim_of({"prediction_type": "v_prediction"}).schedule(3)
        stepped, _ = ddim.step(latents, 1, latents, {}, rng_of(0))
        assert stepped.dtype == dtype
        dpm = dpm_of({"prediction_type": "v_prediction"}).schedule(3)
        stepped, memory = dpm.step(latents, 0, latents, {}, rng_of(0))
        assert stepped.dtype == memory["previous"].dtype == dtype
        assert dpm.skip(1).add_noise(latents, latents).dtype == dtype


@pytest.mark.parametrize("scheduler", COGVIDEOX)
def test_a_key_that_the_reference_does_not_know_either(scheduler: str) -> None:
    raw = {"thresholding": True, "_class_name": scheduler}
    known = scheduler_of(scheduler, raw)
    assert known.config.unknown(raw) == {"thresholding": True}
