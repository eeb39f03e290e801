"""Samplers, every step against diffusers' (recorded by tests/references/make_schedulers.py)."""

from __future__ import annotations

import dataclasses
import json
import typing
from typing import Any

import numpy as np
import pytest

from tests.references import HERE, largest_difference
from vidgen_dist.component_config import OneOf
from vidgen_dist.errors import ConfigError
from vidgen_dist.families.common import components
from vidgen_dist.families.common.pipeline import LATENTS, PREDICTION
from vidgen_dist.families.family import SchedulerClass
from vidgen_dist.request import RequestError
from vidgen_dist.schedulers.schedule import Memory, Schedule

with np.load(HERE / "schedulers" / "samplers.npz") as archive:
    RECORDED = {name: archive[name] for name in archive.files}
RUNS: list[dict[str, Any]] = json.loads(str(RECORDED["runs"]))
OUTPUTS, SAMPLE = RECORDED["model_outputs"], RECORDED["sample"]
CLASSES = {known.name: known for known in vars(components).values() if isinstance(known, SchedulerClass)}
NAMES = sorted({run["scheduler"] for run in RUNS})
ALL = range(len(RUNS))
NOTHING: Memory = {}


def _name(k: int) -> str:
    run = RUNS[k]
    return f"{k}-{run['scheduler'].removesuffix('Scheduler')}-{run['num_inference_steps']}"


def _read(name: str, **config: Any) -> Any:
    return CLASSES[name].read(config)


def _scheduled(k: int) -> Schedule:
    run = RUNS[k]
    schedule: Schedule = _read(run["scheduler"], **run["config"]).schedule(
        run["num_inference_steps"], eta=run["eta"]
    )
    return schedule


def _rng(k: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(RUNS[k]["seed"]))


def _begun(schedule: Schedule) -> np.ndarray:
    return SAMPLE * np.float32(schedule.init_noise_sigma)


def _largest(array: np.ndarray) -> float:
    return float(np.abs(array).max())


@pytest.mark.parametrize("k", ALL, ids=_name)
def test_schedule_is_diffusers(k: int) -> None:
    run, schedule = RUNS[k], _scheduled(k)
    timesteps = RECORDED[f"{k}.timesteps"]
    assert schedule.timesteps.dtype == timesteps.dtype
    scheduler = _read(run["scheduler"], **run["config"])
    assert len(schedule) == len(timesteps) == scheduler.predictions(run["num_inference_steps"])
    if timesteps.dtype == np.int64:
        np.testing.assert_array_equal(schedule.timesteps, timesteps)
    else:
        np.testing.assert_allclose(schedule.timesteps, timesteps, rtol=1e-6, atol=1e-3)
    assert schedule.init_noise_sigma == pytest.approx(float(RECORDED[f"{k}.init"]), rel=1e-6)
    if f"{k}.sigmas" in RECORDED:
        np.testing.assert_allclose(schedule.sigmas, RECORDED[f"{k}.sigmas"], rtol=4e-6)  # type: ignore[attr-defined]


def _tolerance(k: int) -> float:
    # torch's vectorised root is wrong in the last bit for some ᾱ, NumPy's is not. Where ᾱ is close to 1, one
    # bit of it is a large part of the remaining noise.
    return 2e-5 if RUNS[k]["config"].get("rescale_betas_zero_snr") else 4e-6


@pytest.mark.parametrize("k", ALL, ids=_name)
def test_steps_are_diffusers(k: int) -> None:
    schedule, rngs = _scheduled(k), [_rng(k), _rng(k)]
    # Each step starts from the reference's own latents, so that errors do not add up; then all steps in a
    # row.
    samples, memories = [_begun(schedule)] * 2, [NOTHING] * 2
    largest, worst = 1.0, 0.0
    for i in range(len(schedule)):
        shown = schedule.scale_model_input(samples[0], i)
        if f"{k}.shown" in RECORDED:
            assert largest_difference(shown, RECORDED[f"{k}.shown"][i]) <= 4e-6 * max(1.0, _largest(shown))
        else:
            assert shown is samples[0]
        before = _largest(samples[0])
        for n in (0, 1):
            samples[n], memories[n] = schedule.step(OUTPUTS[i], i, samples[n], memories[n], rngs[n])
            assert samples[n].dtype == np.float32
        theirs = RECORDED[f"{k}.samples"][i]
        # Rounding depends on where a step starts and ends: σ may fall from 4096 to 3.
        worst = max(worst, largest_difference(samples[0], theirs) / max(1.0, before, _largest(theirs)))
        samples[0] = theirs
        largest = max(largest, before)
    in_a_row = largest_difference(samples[1], samples[0]) / largest
    print(f"worst of a step: {worst:.2e}, in a row: {in_a_row:.2e}")
    assert max(worst, in_a_row) <= _tolerance(k)


def _choices(hint: Any) -> set[Any]:
    """The values that a field must have in some recorded run."""
    if typing.get_origin(hint) is typing.Literal:
        return set(typing.get_args(hint))
    if typing.get_origin(hint) is typing.Annotated:
        return {name for note in typing.get_args(hint) if isinstance(note, OneOf) for name in note.names}
    return {True, False} if hint is bool or bool in typing.get_args(hint) else set()


@pytest.mark.parametrize("name", NAMES)
def test_the_grid_has_every_value_of_every_key(name: str) -> None:
    config = CLASSES[name].config
    hints = typing.get_type_hints(config, include_extras=True)
    # The sampler ignores these, or takes no other value.
    unused = {"LCMScheduler": {"timestep_spacing", "steps_offset"}, "PNDMScheduler": {"skip_prk_steps"}}
    for field in dataclasses.fields(config):
        if field.name in unused.get(name, ()):
            continue
        seen = [run["config"].get(field.name, field.default) for run in RUNS if run["scheduler"] == name]
        choices = _choices(hints[field.name])
        assert choices <= set(seen) if choices else any(value != field.default for value in seen), field.name


# One for each way to remember and to draw noise.
REMEMBERING = {
    "DDIMScheduler": {},
    "EulerDiscreteScheduler": {},
    "EulerAncestralDiscreteScheduler": {},
    "PNDMScheduler": {"skip_prk_steps": True},
    "LCMScheduler": {},
    "DPMSolverMultistepScheduler": {"solver_order": 3, "algorithm_type": "sde-dpmsolver++"},
    "UniPCMultistepScheduler": {"solver_order": 3, "disable_corrector": [2]},
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_rendering_goes_on_from_any_step(name: str, steps: int) -> None:
    scheduler = _read(name, **REMEMBERING[name])

    def run(first: int, sample: np.ndarray, memory: Memory, rng: np.random.Generator) -> list[Any]:
        schedule, states = scheduler.schedule(steps, eta=0.5), []
        for i in range(first, len(schedule)):
            states.append((sample.copy(), {k: v.copy() for k, v in memory.items()}, rng.bit_generator.state))
            assert not memory.keys() & {LATENTS, PREDICTION}
            for array in (sample, *memory.values()):
                array.flags.writeable = False
            sample, memory = schedule.step(OUTPUTS[i], i, sample, memory, rng)
        return [*states, sample]

    whole = run(0, SAMPLE.copy(), NOTHING, np.random.Generator(np.random.PCG64(5)))
    for i, (sample, memory, state) in enumerate(whole[:-1]):
        rng = np.random.Generator(np.random.PCG64(0))
        rng.bit_generator.state = state
        np.testing.assert_array_equal(run(i, sample, memory, rng)[-1], whole[-1])
    # The remembered arrays have an effect.
    if steps > 2 and whole[2][1]:
        sample, memory, rng.bit_generator.state = whole[2]
        other = {name: array + 1 for name, array in memory.items()}
        assert not np.array_equal(run(2, sample, other, rng)[-1], whole[-1])


@pytest.mark.parametrize("name", NAMES)
def test_every_number_of_steps_is_counted_and_finite(name: str) -> None:
    scheduler = _read(name, **REMEMBERING[name])
    for steps in (*range(1, 20), 50):
        schedule = scheduler.schedule(steps, eta=1.0)
        extra = name == "PNDMScheduler" and steps > 1
        assert len(schedule) == scheduler.predictions(steps) == steps + extra
        sample, memory, rng = _begun(schedule), NOTHING, np.random.Generator(np.random.PCG64(1))
        for i in range(len(schedule)):
            sample, memory = schedule.step(OUTPUTS[i], i, sample, memory, rng)
        assert np.isfinite(sample).all()


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler"])
def test_a_last_step_without_a_way_to_go_stays(name: str) -> None:
    """Spaced sigmas end at the smallest one of the noise schedule, and so does the last step."""
    config = {"use_karras_sigmas": True, "final_sigmas_type": "sigma_min", "lower_order_final": False}
    schedule = _read(name, **config, solver_order=3).schedule(16)
    assert schedule.sigmas[-1] == schedule.sigmas[-2]
    sample, memory, rng = SAMPLE, NOTHING, np.random.default_rng(0)
    for i in range(len(schedule) - 1):
        sample, memory = schedule.step(OUTPUTS[i], i, sample, memory, rng)
    last, memory = schedule.step(OUTPUTS[15], 15, sample, memory, rng)
    assert np.isfinite(last).all()
    if "UniPC" in name:
        # It was corrected before.
        sample = memory["sample"]
    np.testing.assert_allclose(last, sample, rtol=1e-5)


@pytest.mark.parametrize("name", sorted({*NAMES} - {"EulerAncestralDiscreteScheduler", "LCMScheduler"}))
def test_the_true_noise_leads_to_the_clean_sample(name: str) -> None:
    config = {"set_alpha_to_one": True, "clip_sample": False, "beta_schedule": "scaled_linear"}
    schedule = _read(name, **config | {"skip_prk_steps": True}).schedule(8)
    noise = OUTPUTS[0]
    if "Euler" in name:
        latents = SAMPLE + schedule.sigmas[0] * noise
    else:
        alpha = _read("DDIMScheduler", **config).alphas_cumprod[schedule.timesteps[0]]
        latents = alpha**0.5 * SAMPLE + (1 - alpha) ** 0.5 * noise
    latents, memory = latents.astype(np.float32), NOTHING
    for i in range(len(schedule)):
        latents, memory = schedule.step(noise, i, latents, memory, np.random.default_rng(0))
    np.testing.assert_allclose(latents, SAMPLE, atol=2e-5)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("DDIM", {"thresholding": True}, "thresholding is True; allowed is False"),
        ("DDIM", {"clip_sample_range": 0}, "clip_sample_range is 0; allowed is a number above 0"),
        ("DDIM", {"prediction_type": "flow_prediction"}, "one of epsilon, sample, v_prediction"),
        ("DDIM", {"trained_betas": [0.1]}, "null or 1000 numbers between 0 and 1"),
        ("PNDM", {}, "skip_prk_steps is False; allowed is true: "),
        ("PNDM", {"skip_prk_steps": True, "prediction_type": "sample"}, "one of epsilon, v_prediction$"),
        ("EulerAncestralDiscrete", {"prediction_type": "sample"}, "one of epsilon, v_prediction$"),
        ("EulerDiscrete", {"interpolation_type": "cubic"}, "one of linear, log_linear"),
        ("EulerDiscrete", {"sigma_min": 0}, "sigma_min is 0; allowed is a number above 0 or null"),
        (
            "EulerDiscrete",
            {"use_karras_sigmas": True, "use_beta_sigmas": True},
            "false where use_beta_sigmas",
        ),
        (
            "EulerDiscrete",
            {
                "timestep_type": "continuous",
                "prediction_type": "v_prediction",
                "interpolation_type": "log_linear",
            },
            "interpolation_type is 'log_linear'; allowed is linear where",
        ),
        ("EulerDiscrete", {"timesteps": [10, 10]}, "null or descending numbers from 999 at most"),
        (
            "EulerDiscrete",
            {"timesteps": [9], "use_karras_sigmas": True},
            "use_karras_sigmas is True; .*false",
        ),
        ("EulerDiscrete", {"timesteps": [9], "interpolation_type": "log_linear"}, "linear where the config"),
        (
            "EulerDiscrete",
            {"timesteps": [9], "timestep_type": "continuous", "prediction_type": "v_prediction"},
            "discrete where the config has timesteps",
        ),
        ("LCM", {"timesteps": [1000]}, "timesteps is .1000,.; allowed is null or descending"),
        ("LCM", {"timesteps": [0.5]}, "timesteps"),
        ("DPMSolverMultistep", {"timesteps": [9], "use_flow_sigmas": True}, "use_flow_sigmas is True"),
        ("LCM", {"original_inference_steps": 1001}, "from 1 to num_train_timesteps, 1000"),
        ("DPMSolverMultistep", {"algorithm_type": "dpmsolver"}, "one of dpmsolver.., sde-dpmsolver"),
        ("DPMSolverMultistep", {"solver_order": 4}, "solver_order is 4; allowed is one of 1, 2, 3"),
        ("DPMSolverMultistep", {"lambda_min_clipped": -5.1}, "lambda_min_clipped is -5.1; allowed is -inf"),
        ("DPMSolverMultistep", {"variance_type": "learned"}, "variance_type is 'learned'; allowed is null"),
        ("DPMSolverMultistep", {"use_dynamic_shifting": True}, "use_dynamic_shifting is True"),
        ("DPMSolverMultistep", {"use_lu_lambdas": True, "use_flow_sigmas": True}, "false where use_flow"),
        ("UniPCMultistep", {"predict_x0": False}, "sigma_min where predict_x0 is false"),
        ("UniPCMultistep", {"lower_order_final": False}, "sigma_min where lower_order_final is false"),
        ("UniPCMultistep", {"solver_type": "bh1"}, "bh2 where final_sigmas_type is zero"),
        ("UniPCMultistep", {"solver_p": "x"}, "solver_p is 'x'; allowed is null"),
        ("UniPCMultistep", {"use_flow_sigmas": True, "flow_shift": None}, "flow_shift is None"),
        ("UniPCMultistep", {"disable_corrector": [-1]}, "a list, each a whole number from 0"),
        (
            "UniPCMultistep",
            {"predict_x0": False, "final_sigmas_type": "sigma_min", "prediction_type": "flow_prediction"},
            "predict_x0 is False; allowed is true where",
        ),
    ],
)
def test_a_config_that_cannot_be_is_refused(name: str, config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^config of {name}Scheduler: .*{message}"):
        _read(f"{name}Scheduler", **config)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [0, 1001])
def test_steps_are_bounded_by_training(name: str, steps: int) -> None:
    scheduler = _read(name, **REMEMBERING[name])
    for ask in (scheduler.predictions, scheduler.schedule):
        with pytest.raises(RequestError, match=rf"^num_inference_steps: {steps} .*whole number from 1 to "):
            ask(steps)


@pytest.mark.parametrize(
    ("name", "config", "steps", "message"),
    [
        ("LCM", {"timesteps": [999, 499]}, 3, "2, for the scheduler's timesteps are a list of so many"),
        ("EulerDiscrete", {"timesteps": [999, 499]}, 1, "2, for the scheduler's timesteps"),
        ("DPMSolverMultistep", {"timesteps": [999, 499]}, 4, "2, for the scheduler's timesteps"),
        ("LCM", {}, 51, "from 1 to the scheduler's original_inference_steps, 50"),
        ("DPMSolverMultistep", {}, 1000, "num_train_timesteps, 1000, less 1"),
        ("UniPCMultistep", {"timestep_spacing": "leading"}, 1000, "num_train_timesteps, 1000, less 1"),
        (
            "DDIM",
            {"steps_offset": 1},
            1000,
            "steps_offset 1 the first step is 1000, and the last trained step is 999",
        ),
        ("EulerDiscrete", {"steps_offset": 1, "timestep_spacing": "leading"}, 1000, "the first step is 1000"),
        (
            "DDIM",
            {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
            5,
            "no step is at 999, where the scheduler's rescale_betas_zero_snr leaves no signal",
        ),
        ("LCM", {"rescale_betas_zero_snr": True}, 4, "no step is at 999"),
    ],
)
def test_steps_that_cannot_be_are_refused(
    name: str, config: dict[str, Any], steps: int, message: str
) -> None:
    scheduler = _read(f"{name}Scheduler", **config)
    for ask in (scheduler.predictions, scheduler.schedule):
        with pytest.raises(RequestError, match=f"^num_inference_steps: {steps} .*{message}"):
            ask(steps)


def test_eta_is_ddims_alone() -> None:
    for name in NAMES:
        scheduler = _read(name, **REMEMBERING[name])
        ends = []
        for eta in (0.0, 0.5):
            schedule, rng = scheduler.schedule(3, eta=eta), np.random.default_rng(0)
            ends.append(schedule.step(OUTPUTS[0], 0, SAMPLE, NOTHING, rng)[0])
        assert np.array_equal(*ends) == (name != "DDIMScheduler")
