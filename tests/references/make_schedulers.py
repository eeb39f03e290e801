"""Records single steps of diffusers' schedulers over grids of configs.

    python tests/references/make_schedulers.py

Of CogVideoX's it writes `schedulers/steps.npz`: `runs` is JSON, a list of {scheduler, config,
num_inference_steps, eta, seed}; `model_outputs` (N, ...) and `sample` are every run's inputs. For run k,
`k.timesteps` (S,), `k.samples` and `k.originals` (S, ...) hold x_t-1 and x₀ of its steps, `k.noised`
(S, ...) is `add_noise(sample, model_outputs[0], t)`, `k.alphas` every 37th ᾱ.

Of the flow-matching one `schedulers/flow_match.npz`: `runs` is JSON, a list of {config, arguments (of
`set_timesteps`; `tokens` in place of mu), seed}; `model_outputs` and `sample` likewise. For run k,
`k.timesteps` (S,), `k.sigmas` (S + 1,) and `k.samples` (S, ...).
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
from diffusers import CogVideoXDDIMScheduler, CogVideoXDPMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.ltx.pipeline_ltx import calculate_shift

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import making  # noqa: E402

CLASSES = {cls.__name__: cls for cls in (CogVideoXDDIMScheduler, CogVideoXDPMScheduler)}
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
            # Without signal there is no x₀ to be had from a predicted ε.
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
    """Published configs with the sigmas of their pipelines, then what the keys do one by one."""

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


def record_flow_match(
    run: dict[str, Any], outputs: torch.Tensor, sample: torch.Tensor
) -> dict[str, np.ndarray]:
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(run["config"])
    arguments = dict(run["arguments"])
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


def main() -> None:
    rng = np.random.Generator(np.random.PCG64(0))
    outputs = rng.standard_normal((MOST_STEPS, *SHAPE)).astype(np.float32)
    sample = rng.standard_normal(SHAPE).astype(np.float32)
    (HERE / "schedulers").mkdir(exist_ok=True)
    for name, listed, recording in (
        ("steps", runs(), record),
        ("flow_match", flow_match_runs(), record_flow_match),
    ):
        arrays: dict[str, np.ndarray] = {"model_outputs": outputs, "sample": sample}
        table = []
        for k, run in enumerate(listed):
            if "steps" in run:
                run["num_inference_steps"] = run.pop("steps")
            run["seed"] = 100 + k
            table.append(run)
            recorded = recording(run, torch.from_numpy(outputs), torch.from_numpy(sample))
            if not all(np.isfinite(array).all() for array in recorded.values()):
                raise SystemExit(f"not finite: {run}")
            arrays |= {f"{k}.{key}": array for key, array in recorded.items()}
        arrays["runs"] = np.array(json.dumps(table))
        np.savez_compressed(HERE / "schedulers" / f"{name}.npz", **arrays)
        print(f"{name}: {len(table)} runs")


if __name__ == "__main__":
    main()
