"""Makes the LoRA references: random LoRAs for other references' checkpoints, and diffusers' frames with them.

    python tests/references/make_loras.py [case ...]

Needs what the other scripts need, and peft (README.md names the versions).
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, MotionAdapter
from safetensors.torch import save_file

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import making  # noqa: E402

VISIBLE = 0.02
"""Mean absolute difference that a LoRA must make to the frames."""

Pairs = dict[str, tuple[torch.Tensor, torch.Tensor]]
"""Module -> A (r, in) and B (out, r)."""


@dataclass(frozen=True)
class Lora:
    """One LoRA.

    Attributes:
        targets: Component -> pattern of the names of modules that it changes.
        layout: How the file names its tensors, a function of `LAYOUTS`.
        scale: With which it is added.
        rank: Of its products; of every third product one more if `uneven`.
        settings: Of PEFT's config, for the file's metadata, by component.
        alpha: The tensor `alpha` of layouts that have one.
    """

    targets: dict[str, str]
    layout: str = "peft"
    scale: float = 1.0
    rank: int = 2
    uneven: bool = False
    settings: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    alpha: float | None = None


@dataclass(frozen=True)
class Case:
    """A checkpoint of another reference, LoRAs for it, and a request.

    Attributes:
        family, of: The folders of the reference.
        loras: Added in this order.
        request: What is rendered.
        adapter: The motion adapter's folder beside the checkpoint.
        scheduler: For AnimateDiff, settings of `DDIMScheduler`.
    """

    family: str
    of: str
    loras: tuple[Lora, ...]
    request: dict[str, Any]
    adapter: str | None = None
    scheduler: dict[str, Any] | None = None


BASE = {"prompt": making.PROMPT, "num_inference_steps": 3, "seed": 11}
CASES = {
    # alpha for all modules in the metadata; subtracted.
    "cogvideox": Case(
        "cogvideox",
        "5b",
        (
            Lora(
                {
                    "transformer": r".*attn1\.to_(q|k|v|out\.0)|.*\.ff\.net\.2|.*norm1\.linear"
                    r"|patch_embed\.proj"
                },
                scale=-0.7,
                settings={"transformer": {"r": 2, "lora_alpha": 3}},
            ),
        ),
        {**BASE, "height": 32, "width": 32, "num_frames": 9},
    ),
    # Two at once, without alpha; one with ComfyUI's prefix.
    "ltx": Case(
        "ltx",
        "0.9.0",
        (
            Lora({"transformer": r".*attn[12]\.to_(q|k|v|out\.0)"}, scale=0.8),
            Lora({"transformer": r".*\.ff\.net\.(0\.proj|2)|proj_in"}, layout="comfy", scale=1.3, rank=3),
        ),
        {**BASE, "height": 32, "width": 32, "num_frames": 9, "max_sequence_length": 24},
    ),
    # Ranks and alphas that differ, as patterns.
    "hunyuan_video": Case(
        "hunyuan_video",
        "t2v",
        (
            Lora(
                {
                    "transformer": r"(transformer_blocks|single_transformer_blocks)\.\d+\."
                    r"(attn\.(to_(q|k|v|out\.0|add_out)|add_q_proj)|proj_mlp|norm1?\.linear)"
                },
                scale=0.9,
                uneven=True,
                settings={
                    "transformer": {
                        "r": 2,
                        "lora_alpha": 2,
                        "alpha_pattern": {"attn.to_q": 4, "single_transformer_blocks.0.attn.to_v": 1},
                    }
                },
            ),
        ),
        {**BASE, "height": 16, "width": 32, "num_frames": 5, "max_sequence_length": 24},
    ),
    # Rank-stabilised; and with biases, which only layers that have biases can take.
    "mochi": Case(
        "mochi",
        "odd",
        (
            Lora(
                {"transformer": r".*attn1\.(to_(q|k|v)|add_(q|k|v)_proj)|.*\.ff\.net\.2"},
                scale=1.2,
                settings={"transformer": {"r": 2, "lora_alpha": 2, "use_rslora": True}},
            ),
            Lora(
                {"transformer": r".*attn1\.(to_out\.0|to_add_out)"},
                scale=0.8,
                settings={"transformer": {"r": 2, "lora_alpha": 3, "lora_bias": True}},
            ),
        ),
        {**BASE, "height": 16, "width": 32, "num_frames": 7, "max_sequence_length": 24},
    ),
    # kohya's layout with alpha, for UNet and text encoder, beside a motion LoRA as its authors publish them.
    "animatediff": Case(
        "animatediff",
        "v1-5-2",
        (
            Lora(
                {
                    "unet": r".*\.attentions\..*(to_(q|k|v|out\.0)|ff\.net\.0\.proj|proj_in)",
                    "text_encoder": r".*(q_proj|out_proj|mlp\.fc1)",
                },
                layout="kohya",
                scale=0.8,
                alpha=1.0,
            ),
            Lora(
                {"unet": r".*motion_modules.*to_(q|k|v|out\.0)"},
                layout="processors",
                scale=1.5,
            ),
        ),
        {**BASE, "height": 32, "width": 32, "num_frames": 4, "negative_prompt": "blurry"},
        adapter="adapter",
        scheduler={
            "clip_sample": False,
            "timestep_spacing": "linspace",
            "beta_schedule": "linear",
            "steps_offset": 1,
        },
    ),
}


def peft(component: str, name: str, pair: tuple[torch.Tensor, torch.Tensor], _: float | None) -> Any:
    """diffusers' present layout."""
    return {f"{component}.{name}.lora_A.weight": pair[0], f"{component}.{name}.lora_B.weight": pair[1]}


def comfy(_: str, name: str, pair: tuple[torch.Tensor, torch.Tensor], __: float | None) -> Any:
    """The layout of ComfyUI and of most trainers."""
    return peft("diffusion_model", name, pair, None)


def kohya(component: str, name: str, pair: tuple[torch.Tensor, torch.Tensor], alpha: float | None) -> Any:
    """sd-scripts' layout."""
    prefix = {"unet": "lora_unet", "text_encoder": "lora_te"}[component]
    key = f"{prefix}_{name.replace('.', '_')}"
    tensors = {f"{key}.lora_down.weight": pair[0], f"{key}.lora_up.weight": pair[1]}
    return {**tensors, f"{key}.alpha": torch.tensor(alpha)}


def processors(component: str, name: str, pair: tuple[torch.Tensor, torch.Tensor], _: float | None) -> Any:
    """diffusers' layout of 2023: LoRAs belonged to attention processors."""
    attention, _, layer = name.removesuffix(".0").rpartition(".")
    key = f"{component}.{attention}.processor.{layer}_lora"
    return {f"{key}.down.weight": pair[0], f"{key}.up.weight": pair[1]}


LAYOUTS: dict[str, Callable[..., dict[str, torch.Tensor]]] = {
    layout.__name__: layout for layout in (peft, comfy, kohya, processors)
}


def make(name: str, case: Case) -> None:
    """Writes a case: the LoRAs' files, the frames, and what `tests.references.LoraCase` reads."""
    checkpoint = HERE / case.family / case.of / "checkpoint"
    folder = HERE / "loras" / name
    folder.mkdir(parents=True, exist_ok=True)
    pipeline = load(case, checkpoint)
    before = render(pipeline, case.request)
    for k, lora in enumerate(case.loras):
        save_lora(pipeline, lora, folder / f"lora.{k}.safetensors", seed=100 * k + 7)
        pipeline.load_lora_weights(str(folder), weight_name=f"lora.{k}.safetensors", adapter_name=f"lora{k}")
    pipeline.set_adapters([f"lora{k}" for k in range(len(case.loras))], [lora.scale for lora in case.loras])
    correct_rank_stabilised(pipeline, case.loras)
    frames = render(pipeline, case.request)
    change, clipped = np.abs(frames - before).mean(), np.mean((frames <= 0) | (frames >= 1))
    print(f"{name}: {frames.shape}, changed by {change:.3f}, clipped {clipped:.3f}")
    if change < VISIBLE or clipped > making.CLIPPED_AT_MOST:
        raise SystemExit(f"{name}: its LoRAs change too little, or too many pixels are clipped")
    np.save(folder / "frames.npy", frames)
    facts = {
        "family": case.family,
        "case": case.of,
        "scales": [lora.scale for lora in case.loras],
        "request": case.request,
    }
    making.write_json(folder / "lora.json", facts)


def correct_rank_stabilised(pipeline: Any, loras: tuple[Lora, ...]) -> None:
    """Divide by the root of the rank: peft 0.17.1 does so when it loads a LoRA, not when its scale is set."""
    for k, lora in enumerate(loras):
        for component, settings in lora.settings.items():
            if settings.get("use_rslora"):
                for module in getattr(pipeline, component).modules():
                    scaling = getattr(module, "scaling", {})
                    if f"lora{k}" in scaling:
                        scaling[f"lora{k}"] *= module.r[f"lora{k}"] ** 0.5


def load(case: Case, checkpoint: Path) -> Any:
    """diffusers' pipeline for a checkpoint, in float32."""
    further: dict[str, Any] = {}
    if case.adapter is not None:
        from diffusers import AnimateDiffPipeline

        adapter = MotionAdapter.from_pretrained(checkpoint.parent / case.adapter)
        pipeline = AnimateDiffPipeline.from_pretrained(checkpoint, motion_adapter=adapter, **further)
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, **(case.scheduler or {}))
    else:
        pipeline = DiffusionPipeline.from_pretrained(checkpoint)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def save_lora(pipeline: Any, lora: Lora, path: Path, seed: int) -> None:
    """Writes a random LoRA."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    metadata: dict[str, Any] = {}
    for component, pattern in lora.targets.items():
        pairs = random_pairs(getattr(pipeline, component), pattern, lora, generator)
        for name, pair in pairs.items():
            tensors |= LAYOUTS[lora.layout](component, name, pair, lora.alpha)
        settings = lora.settings.get(component)
        if settings is not None:
            if settings.get("lora_bias"):
                for name, (_, up) in pairs.items():
                    key = f"{component}.{name}.lora_B.bias"
                    tensors[key] = 0.2 * torch.randn(len(up), generator=generator)
            settings = {**settings, "target_modules": sorted(pairs)}
            ranks = {name: len(down) for name, (down, _) in pairs.items() if len(down) != lora.rank}
            settings["rank_pattern"] = ranks
            metadata |= {f"{component}.{key}": value for key, value in settings.items()}
    header = {"format": "pt"}
    if metadata:
        header["lora_adapter_metadata"] = json.dumps(metadata)
    save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata=header)


def random_pairs(model: Any, pattern: str, lora: Lora, generator: torch.Generator) -> Pairs:
    """Matrices for the modules of a model whose names match."""
    pairs: Pairs = {}
    for name, module in model.named_modules():
        if not re.fullmatch(pattern, name) or not hasattr(module, "weight"):
            continue
        rank = lora.rank + (lora.uneven and len(pairs) % 3 == 2)
        shape = tuple(module.weight.shape)
        kernel = (1,) * len(shape[2:])
        down = torch.randn((rank, *shape[1:]), generator=generator) / module.weight[0].numel() ** 0.5
        up = torch.randn((shape[0], rank, *kernel), generator=generator) / rank**0.5
        pairs[name] = (down, up)
    return pairs


def render(pipeline: Any, request: dict[str, Any]) -> np.ndarray:
    """Frames (F, H, W, 3), float32 in [0, 1], with the noise of the request's seed."""
    arguments = dict(request)
    with making.numpy_noise(arguments.pop("seed")):
        return np.asarray(pipeline(**arguments, output_type="np").frames[0]).astype(np.float32)


if __name__ == "__main__":
    making.main(make, CASES)
