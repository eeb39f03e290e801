"""Frames of checkpoints with LoRAs: against diffusers' `load_lora_weights`, and against merged weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests import references
from tests.parallel.ranks import Ranks
from vidgen_dist import load_pipeline
from vidgen_dist.parallel.degrees import Degrees
from vidgen_dist.parallel.mesh import Mesh

TOLERANCE = 1e-3
OF_GANGS = 1e-4


def render(mesh: Mesh | None, name: str, scale: float = 1.0) -> np.ndarray:
    """A case's frames, its LoRAs' scales multiplied by `scale`."""
    case = references.LoraCase(name)
    loras = [(place, scale * own) for place, own in case.loras]
    pipeline = load_pipeline(str(case.base.checkpoint), **case.base.options, loras=loras, mesh=mesh)
    return pipeline(case.request)


@pytest.mark.parametrize("name", references.lora_cases())
def test_frames_equal_diffusers(name: str) -> None:
    references.check_close(name, render(None, name), references.LoraCase(name).frames, TOLERANCE)


def test_a_scale_of_zero_changes_nothing() -> None:
    case = references.LoraCase("cogvideox")
    plain = load_pipeline(str(case.base.checkpoint), **case.base.options)(case.request)
    np.testing.assert_array_equal(render(None, "cogvideox", scale=0), plain)


@pytest.mark.parametrize(
    ("name", "degrees"),
    [
        ("animatediff", Degrees(ulysses=2)),
        ("cogvideox", Degrees(ring=2)),
        ("hunyuan_video", Degrees(ulysses=2)),
        ("ltx", Degrees(cfg=2)),
        ("mochi", Degrees(ulysses=2)),
    ],
)
def test_a_gang_merges_its_slices_of_the_weights(name: str, degrees: Degrees, ranks: Ranks) -> None:
    frames, _ = ranks.run(render, name, degrees=degrees)
    references.check_close(name, frames, references.LoraCase(name).frames, TOLERANCE)
    references.check_close(f"{name}, alone", frames, render(None, name), OF_GANGS)


# diffusers has no loader for these.
@pytest.mark.parametrize(("family", "of"), [("stable_video_diffusion", "small"), ("i2vgen_xl", "odd")])
def test_frames_equal_those_of_weights_merged_beforehand(family: str, of: str, tmp_path: Path) -> None:
    case = references.case(of, family)
    merged = Path(shutil.copytree(case.checkpoint, tmp_path / "checkpoint"))
    lora = _merge_random_lora(merged / "unet", tmp_path / "lora.safetensors", scale=0.6)
    expected = load_pipeline(str(merged), **case.options)(case.requests[0])
    frames = load_pipeline(str(case.checkpoint), **case.options, loras=[(lora, 0.6)])(case.requests[0])
    references.check_close(family, frames, expected, 1e-5)
    assert references.largest_difference(frames, case.frames[0]) > 0.01


def _merge_random_lora(folder: Path, path: Path, scale: float) -> str:
    """Write a LoRA of a component, and add it to the weights in the component's folder, in float32."""
    rng = np.random.default_rng(5)
    (file,) = folder.glob("*.safetensors")
    weights = {key: value.astype(np.float32) for key, value in load_file(file).items()}
    lora = {}
    for key in [key for key in weights if key.endswith(("to_q.weight", "to_out.0.weight", "conv1.weight"))]:
        out, inner = len(weights[key]), weights[key][0].size
        up = rng.standard_normal((out, 3)).astype(np.float32)
        down = (rng.standard_normal((3, inner)) / inner**0.5).astype(np.float32)
        weights[key] += np.float32(scale * 2 / 3) * (up @ down).reshape(weights[key].shape)
        kernel = weights[key].shape[2:]
        name = f"unet.{key.removesuffix('.weight')}"
        lora[f"{name}.lora_A.weight"] = down.reshape(3, *weights[key].shape[1:])
        lora[f"{name}.lora_B.weight"] = up.reshape(out, 3, *(1 for _ in kernel))
    save_file(weights, file)
    save_file(lora, path, metadata={"lora_adapter_metadata": json.dumps({"unet.r": 3, "unet.lora_alpha": 2})})
    return str(path)
