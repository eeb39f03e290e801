"""Records single steps of diffusers' schedulers over grids of configs.

    python tests/references/make_schedulers.py

CogVideoX's are written to `schedulers/steps.npz`: `runs` is JSON, a list of {scheduler, config,
num_inference_steps, eta, seed}; `model_outputs` (N, ...) and `sample` are the inputs of every run. For run k,
`k.timesteps` (S,), `k.samples` and `k.originals` (S, ...) hold x_t-1 and x₀ of its steps, `k.noised`
(S, ...) is `add_noise(sample, model_outputs[0], t)`, `k.alphas` every 37th ᾱ.

The flow-matching one is written to `schedulers/flow_match.npz`: `runs` is JSON, a list of {config, arguments
(of `set_timesteps`; `tokens` instead of mu), seed}; `model_outputs` and `sample` likewise. For run k,
`k.timesteps` (S,), `k.sigmas` (S + 1,) and `k.samples` (S, ...).

Stable Diffusion's, Stable Video Diffusion's and Wan's are written to `schedulers/samplers.npz`: `runs` is
JSON, a list of {scheduler, config, num_inference_steps, eta, seed}; `model_outputs` and `sample` likewise.
For run k, `k.timesteps` (S,), `k.init` (the sample is multiplied by it), `k.samples` (S, ...), and if the
sampler has them `k.sigmas` (S + 1,) and `k.shown` (S, ...), the model's input at each step.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from diffusers.pipelines.ltx.pipeline_ltx import calculate_shift

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import making  # noqa: E402

CLASSES = {cls.__name__: cls for cls in (CogVideoXDDIMScheduler, CogVideoXDPMScheduler)}
SAMPLERS = {
    "ddim": DDIMScheduler,
    "euler": EulerDiscreteScheduler,
    "ancestral": EulerAncestralDiscreteScheduler,
    "pndm": PNDMScheduler,
    "lcm": LCMScheduler,
    "dpm": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
}
SHAPE = (1, 2, 2, 3, 2)
MOST_STEPS = 50
TRAINED = {"num_train_timesteps": 20, "trained_betas": [round(0.01 * k, 2) for k in range(1, 21)]}
SCHEDULES = (
    {"beta_schedule": "scaled_linear", "snr_shift_scale": 3.0},
    {"beta_schedule": "scaled_linear", "snr_shift_scale": 1.0, "set_alpha_to_one": False, "steps_offset": 1},
    {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02, "snr_shift_scale": 1.0},
    {"beta_schedule": "squaredcos_cap_v2", "snr_shift_scale": 2.0, "clip_sample": False},
    TRAINED,
)
PUBLISHED = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "clip_sample_range": 1.0,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "sample_max_value": 1.0,
    "set_alpha_to_one": True,
    "steps_offset": 0,
    "timestep_spacing": "trailing",
    "trained_betas": None,
}


def runs() -> Iterator[dict[str, Any]]:
    for name, shift in (("CogVideoXDDIMScheduler", 3.0), ("CogVideoXDPMScheduler", 1.0)):
        for steps, eta in ((50, 0.0), (7, 0.5), (1, 0.0), (2, 0.0)):
            yield {
                "scheduler": name,
                "config": PUBLISHED | {"snr_shift_scale": shift},
                "steps": steps,
                "eta": eta,
            }
    spacings = ("leading", "linspace", "trailing")
    for name, spacing, (k, schedule) in itertools.product(CLASSES, spacings, enumerate(SCHEDULES)):
        for prediction in ("epsilon", "sample", "v_prediction"):
            config = {"timestep_spacing": spacing, "prediction_type": prediction, **schedule}
            # Without signal, a predicted ε gives no x₀.
            config["rescale_betas_zero_snr"] = prediction != "epsilon" and k % 2 == 0
            yield {"scheduler": name, "config": config, "steps": 3 + k, "eta": 0.25 * (k % 3)}
    yield {"scheduler": "CogVideoXDDIMScheduler", "config": {}, "steps": 6, "eta": 0.0}
    yield {"scheduler": "CogVideoXDPMScheduler", "config": {}, "steps": 6, "eta": 0.0}


def record(run: dict[str, Any], outputs: torch.Tensor, sample: torch.Tensor) -> dict[str, np.ndarray]:
    scheduler = CLASSES[run["scheduler"]].from_config(run["config"])
    scheduler.set_timesteps(run["num_inference_steps"])
    timesteps = scheduler.timesteps
    noised = [scheduler.add_noise(sample, outputs[0], t[None]) for t in timesteps]
    samples, originals = [], []
    with making.numpy_noise(run["seed"]):
        for i, t in enumerate(timesteps):
            if run["scheduler"] == "CogVideoXDPMScheduler":
                old, back = (originals[-1], timesteps[i - 1]) if i else (None, None)
                sample, original = scheduler.step(outputs[i], old, t, back, sample, eta=run["eta"])
            else:
                sample, original = scheduler.step(outputs[i], t, sample, eta=run["eta"], return_dict=False)
            samples.append(sample)
            originals.append(original)
    return {
        "timesteps": timesteps.numpy(),
        "samples": torch.stack(samples).numpy(),
        "originals": torch.stack(originals).numpy(),
        "noised": torch.stack(noised).numpy(),
        "alphas": scheduler.alphas_cumprod[::37].numpy(),
    }


LTX = {
    "base_image_seq_len": 1024,
    "base_shift": 0.95,
    "invert_sigmas": False,
    "max_image_seq_len": 4096,
    "max_shift": 2.05,
    "num_train_timesteps": 1000,
    "shift": 1.0,
    "shift_terminal": 0.1,
    "use_beta_sigmas": False,
    "use_dynamic_shifting": True,
    "use_exponential_sigmas": False,
    "use_karras_sigmas": False,
}
HUNYUAN = {"num_train_timesteps": 1000, "shift": 7.0, "use_dynamic_shifting": False, "invert_sigmas": False}
MOCHI = {"num_train_timesteps": 1000, "shift": 1.0, "invert_sigmas": True}


def flow_match_runs() -> Iterator[dict[str, Any]]:
    """Published configs with their pipelines' sigmas, then the effect of each key."""

    def even(steps: int) -> list[float]:
        return np.linspace(1.0, 1 / steps, steps).tolist()

    yield {"config": LTX, "arguments": {"sigmas": even(50), "tokens": 6930}}
    yield {"config": LTX, "arguments": {"sigmas": even(7), "tokens": 24}}
    yield {"config": LTX | {"time_shift_type": "linear"}, "arguments": {"sigmas": even(5), "tokens": 3000}}
    yield {"config": LTX | {"shift_terminal": 0}, "arguments": {"sigmas": even(1), "tokens": 6930}}
    yield {"config": LTX, "arguments": {"sigmas": even(6), "tokens": 500}}
    yield {"config": HUNYUAN, "arguments": {"sigmas": np.linspace(1.0, 0.0, 31)[:-1].tolist()}}
    yield {"config": HUNYUAN, "arguments": {"sigmas": np.linspace(1.0, 0.0, 51)[:-1].tolist()}}
    yield {"config": MOCHI, "arguments": {"sigmas": [1.0, 0.99, 0.975, 0.8, 0.4]}}
    yield {"config": MOCHI | {"shift": 2.5}, "arguments": {"sigmas": even(9)}}
    yield {"config": {}, "arguments": {"sigmas": [1.0, 0.7005, 0.3, 0.001]}}
    for key in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"):
        yield {"config": {"shift": 3.0, key: True}, "arguments": {"sigmas": even(8)}}
        yield {"config": LTX | {key: True}, "arguments": {"sigmas": even(8), "tokens": 2000}}
    yield {"config": {"stochastic_sampling": True}, "arguments": {"sigmas": even(5)}}
    for config in ({}, MOCHI):
        # LTX-Video 0.9.7's distilled checkpoint is sampled so.
        fixed = {"timesteps": [1000, 993, 987, 981, 975, 909, 725, 0.03]}
        yield {"config": config | fixed, "arguments": {"sigmas": even(8)}}


def without_timesteps(config: dict[str, Any]) -> dict[str, Any]:
    """diffusers takes them as an argument of `set_timesteps`."""
    return {key: value for key, value in config.items() if key != "timesteps"}


def record_flow_match(
    run: dict[str, Any], outputs: torch.Tensor, sample: torch.Tensor
) -> dict[str, np.ndarray]:
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(without_timesteps(run["config"]))
    arguments = dict(run["arguments"])
    if "timesteps" in run["config"]:
        arguments = {"timesteps": run["config"]["timesteps"]}
    if "tokens" in arguments:
        keys = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
        arguments["mu"] = calculate_shift(arguments.pop("tokens"), *(scheduler.config[key] for key in keys))
    scheduler.set_timesteps(**arguments)
    timesteps, samples = scheduler.timesteps, []
    with making.numpy_noise(run["seed"]):
        for i, t in enumerate(timesteps):
            (sample,) = scheduler.step(outputs[i], t, sample, return_dict=False)
            samples.append(sample)
    return {
        "timesteps": timesteps.numpy(),
        "sigmas": scheduler.sigmas.numpy(),
        "samples": torch.stack(samples).numpy(),
    }


SD15 = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
SD15_PNDM = SD15 | {"set_alpha_to_one": False, "skip_prk_steps": True, "clip_sample": False}
# Schedulers that the guide and model cards use with AnimateDiff's checkpoints.
ANIMATEDIFF = {
    "beta_schedule": "linear",
    "clip_sample": False,
    "timestep_spacing": "linspace",
    "steps_offset": 1,
}
ANIMATELCM = SD15 | {"beta_schedule": "linear"}
LIGHTNING = SD15 | {"beta_schedule": "linear", "timestep_spacing": "trailing"}
I2VGEN_XL = {
    "beta_schedule": "squaredcos_cap_v2",
    "clip_sample": False,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "set_alpha_to_one": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
SVD = SD15 | {
    "interpolation_type": "linear",
    "prediction_type": "v_prediction",
    "sigma_max": 700.0,
    "sigma_min": 0.002,
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "use_karras_sigmas": True,
}
WAN = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0, "solver_order": 2}
SPACINGS = ("leading", "linspace", "trailing")
SIGMAS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")


def published() -> Iterator[tuple[str, dict[str, Any], tuple[int, ...]]]:
    """Sampler, config and numbers of steps of published checkpoints, model cards and the guide."""
    yield "pndm", SD15_PNDM, (50, 7, 4, 3, 2, 1)
    yield "ddim", ANIMATEDIFF, (50, 25)
    yield "ddim", SD15 | {"clip_sample": False, "set_alpha_to_one": False}, (20, 1)
    yield "ddim", I2VGEN_XL, (50, 9)
    yield "euler", SVD, (25, 4, 1)
    yield "euler", LIGHTNING, (8, 4, 2)
    yield "euler", SD15 | {"timestep_spacing": "leading"}, (30,)
    yield "ancestral", SD15, (25, 1)
    yield "lcm", ANIMATELCM, (6, 50, 1)
    yield "lcm", SD15, (4,)
    yield "dpm", SD15 | {"use_karras_sigmas": True, "algorithm_type": "dpmsolver++"}, (25, 8, 1)
    yield "dpm", SD15 | {"use_karras_sigmas": True, "algorithm_type": "sde-dpmsolver++"}, (20, 2)
    yield "dpm", WAN, (20, 5)
    yield "unipc", SD15, (25, 1)
    yield "unipc", WAN, (50, 4)
    yield "unipc", WAN | {"flow_shift": 5.0}, (6,)


def one_by_one() -> Iterator[tuple[str, dict[str, Any], tuple[int, ...]]]:
    """The effect of each key, with all of its values."""
    for spacing, prediction in itertools.product(SPACINGS, ("epsilon", "sample", "v_prediction")):
        common = SD15 | {"timestep_spacing": spacing, "prediction_type": prediction}
        yield "ddim", common, (5,)
        yield "euler", common, (5,)
        yield "dpm", common, (5,)
        yield "unipc", common, (5,)
        if prediction != "sample":
            yield "ancestral", common, (5,)
            yield "pndm", common | {"skip_prk_steps": True}, (6,)
    for prediction in ("sample", "v_prediction"):
        yield "lcm", {"prediction_type": prediction, "rescale_betas_zero_snr": True}, (5,)
        for name in ("ddim", "euler", "ancestral", "dpm", "unipc"):
            if (name, prediction) != ("ancestral", "sample"):
                zero = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
                yield name, SD15 | zero | {"prediction_type": prediction, "beta_schedule": "linear"}, (4,)
    yield "lcm", {"original_inference_steps": 20, "timestep_scaling": 3.0, "clip_sample": True}, (5, 20)
    yield "lcm", {"clip_sample": True, "clip_sample_range": 0.3}, (3,)
    yield "lcm", TRAINED | {"original_inference_steps": 10}, (3,)
    yield "lcm", ANIMATELCM | {"beta_start": 0.0001, "beta_end": 0.02}, (3,)
    yield "lcm", {"beta_schedule": "squaredcos_cap_v2"}, (3,)
    yield "ddim", {"clip_sample_range": 0.5}, (5,)
    yield "ddim", {}, (5,)
    yield (
        "pndm",
        {"skip_prk_steps": True, "set_alpha_to_one": True, "beta_schedule": "squaredcos_cap_v2"},
        (5,),
    )
    yield "pndm", TRAINED | {"skip_prk_steps": True}, (3,)
    yield "pndm", {"skip_prk_steps": True, "beta_schedule": "linear"}, (5,)
    for name in ("ddim", "euler", "ancestral", "dpm", "unipc"):
        yield name, TRAINED, (3,)
        # In the reference's float32 an ancestral step from the first σ would take the root of a negative
        # number.
        spacing = {"timestep_spacing": "leading"} if name == "ancestral" else {}
        yield name, spacing | {"beta_schedule": "squaredcos_cap_v2"}, (4,)
    yield from in_sigmas()
    yield from solvers()


def in_sigmas() -> Iterator[tuple[str, dict[str, Any], tuple[int, ...]]]:
    for key, final in itertools.product(SIGMAS, ("zero", "sigma_min")):
        spaced = SD15 | {key: True, "final_sigmas_type": final}
        yield "euler", spaced | {"sigma_min": 0.03, "sigma_max": 20.0}, (5,)
        for name in ("euler", "dpm", "unipc"):
            yield name, spaced, (6,)
    yield "euler", SD15 | {"interpolation_type": "log_linear"}, (6,)
    yield "euler", SVD | {"interpolation_type": "log_linear"}, (5,)
    yield "euler", SVD | {"sigma_min": None, "sigma_max": None}, (5,)
    yield "euler", SVD | {"prediction_type": "epsilon"}, (5,)
    for name in ("euler", "dpm", "unipc"):
        yield name, SD15 | {"final_sigmas_type": "sigma_min"}, (5,)
        yield name, {"use_karras_sigmas": True, "beta_schedule": "squaredcos_cap_v2"}, (5,)
    yield "dpm", SD15 | {"use_lu_lambdas": True}, (6,)


def solvers() -> Iterator[tuple[str, dict[str, Any], tuple[int, ...]]]:
    for order, solver, algorithm in itertools.product(
        (1, 2, 3), ("midpoint", "heun"), ("dpmsolver++", "sde-dpmsolver++")
    ):
        keys = {"solver_order": order, "solver_type": solver, "algorithm_type": algorithm}
        yield "dpm", SD15 | keys, (7, 16)
    for keys in ({"lower_order_final": False}, {"euler_at_final": True}):
        yield "dpm", SD15 | keys | {"final_sigmas_type": "sigma_min", "solver_order": 3}, (7, 16)
    # Names of other samplers' solvers, as in a config that was made for these.
    for solver in ("bh1", "bh2", "logrho"):
        deis = {"solver_type": solver, "algorithm_type": "deis", "final_sigmas_type": "sigma_min"}
        yield "dpm", SD15 | deis, (4,)
    for solver in ("midpoint", "heun", "logrho"):
        yield "unipc", SD15 | {"solver_type": solver}, (4,)
    for order, solver, x0 in itertools.product((1, 2, 3), ("bh1", "bh2"), (True, False)):
        for prediction in ("epsilon", "sample", "v_prediction"):
            keys = {"solver_order": order, "solver_type": solver, "predict_x0": x0}
            # The reference divides by zero in other ways to end at a clean sample.
            final = "zero" if x0 and solver == "bh2" else "sigma_min"
            yield "unipc", SD15 | keys | {"final_sigmas_type": final, "prediction_type": prediction}, (6,)
    yield "unipc", SD15 | {"lower_order_final": False, "final_sigmas_type": "sigma_min"}, (6,)
    yield "unipc", SD15 | {"disable_corrector": [0, 2, 3], "solver_type": "midpoint"}, (7,)
    yield from fixed()


def fixed() -> Iterator[tuple[str, dict[str, Any], tuple[int, ...]]]:
    """Lists of timesteps, as models distilled to a few steps have them."""
    for timesteps in ([999, 759, 499, 259], [951, 310, 7, 0], [999]):
        for name in ("euler", "lcm", "dpm"):
            yield name, SD15 | {"timesteps": timesteps}, (len(timesteps),)


def sampler_runs() -> Iterator[dict[str, Any]]:
    for name, config, numbers in itertools.chain(published(), one_by_one()):
        for steps in numbers:
            run = {"scheduler": SAMPLERS[name].__name__, "config": config, "steps": steps, "eta": 0.0}
            yield run
            if name == "ddim":
                yield run | {"eta": 0.7}


def record_sampler(run: dict[str, Any], outputs: torch.Tensor, sample: torch.Tensor) -> dict[str, np.ndarray]:
    cls = next(cls for cls in SAMPLERS.values() if cls.__name__ == run["scheduler"])
    scheduler = cls.from_config(without_timesteps(run["config"]))
    if "timesteps" in run["config"]:
        scheduler.set_timesteps(timesteps=run["config"]["timesteps"])
    else:
        scheduler.set_timesteps(run["num_inference_steps"])
    timesteps, shown, samples = scheduler.timesteps, [], []
    if hasattr(scheduler, "set_begin_index"):
        # Otherwise a first timestep that occurs twice begins at its second occurrence.
        scheduler.set_begin_index(0)
    sample = begun = sample * scheduler.init_noise_sigma
    eta = {"eta": run["eta"]} if cls is DDIMScheduler else {}
    with making.numpy_noise(run["seed"]):
        for i, t in enumerate(timesteps):
            shown.append(scheduler.scale_model_input(sample, t))
            sample = scheduler.step(outputs[i], t, sample, return_dict=False, **eta)[0]
            samples.append(sample)
    recorded = {
        "timesteps": timesteps.numpy(),
        "init": np.float32(scheduler.init_noise_sigma),
        "samples": torch.stack(samples).numpy(),
    }
    if any(not torch.equal(*pair) for pair in zip(shown, [begun, *samples[:-1]], strict=True)):
        recorded["shown"] = torch.stack(shown).numpy()
    sigmas = getattr(scheduler, "sigmas", None)
    return recorded if sigmas is None else recorded | {"sigmas": sigmas.numpy()}


def main() -> None:
    rng = np.random.Generator(np.random.PCG64(0))
    outputs = rng.standard_normal((MOST_STEPS, *SHAPE)).astype(np.float32)
    sample = rng.standard_normal(SHAPE).astype(np.float32)
    # PNDM makes one more. Old files keep theirs.
    more = np.concatenate([outputs, rng.standard_normal((1, *SHAPE)).astype(np.float32)])
    (HERE / "schedulers").mkdir(exist_ok=True)
    for name, listed, recording, made in (
        ("steps", runs(), record, outputs),
        ("flow_match", flow_match_runs(), record_flow_match, outputs),
        ("samplers", sampler_runs(), record_sampler, more),
    ):
        arrays: dict[str, np.ndarray] = {"model_outputs": made, "sample": sample}
        table = []
        for k, run in enumerate(listed):
            if "steps" in run:
                run["num_inference_steps"] = run.pop("steps")
            run["seed"] = 100 + k
            table.append(run)
            recorded = recording(run, torch.from_numpy(made), torch.from_numpy(sample))
            if not all(np.isfinite(array).all() for array in recorded.values()):
                raise SystemExit(f"not finite: {run}")
            arrays |= {f"{k}.{key}": array for key, array in recorded.items()}
        arrays["runs"] = np.array(json.dumps(table))
        np.savez_compressed(HERE / "schedulers" / f"{name}.npz", **arrays)
        print(f"{name}: {len(table)} runs")


if __name__ == "__main__":
    main()
