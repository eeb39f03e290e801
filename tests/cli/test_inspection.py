"""`vidgen inspect`: what a checkpoint or a LoRA is, and what of a LoRA a model does not take."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests import references
from tests.commands import Vidgen

pytestmark = pytest.mark.usefixtures("no_ray")


def test_what_a_lora_is(vidgen: Vidgen, tmp_path: Path) -> None:
    ones = np.ones((4, 4), np.float32)
    tensors = {
        "transformer.a.lora_A.weight": ones,
        "transformer.a.lora_B.weight": ones,
        "transformer.b.lora_A.weight": ones[:2],
        "transformer.b.lora_B.weight": ones[:, :2],
        "transformer.c.lora_A.weight": ones,
        "transformer.c.lora_B.weight": ones,
        "lora_te_d.lora_down.weight": ones,
        "lora_te_d.lora_up.weight": ones,
        "e.diff": ones,
        "odd": ones,
    }
    settings = {"transformer.lora_alpha": 2, "transformer.base_model_name_or_path": "org/model"}
    path = tmp_path / "style.safetensors"
    save_file(tensors, path, metadata={"lora_adapter_metadata": json.dumps(settings)})
    told = vidgen("inspect", path).out.splitlines()
    assert told[0].split() == ["file", str(path)]
    assert told[2:] == [
        "made for     org/model (base_model_name_or_path)",
        "size         144 parameters, 10 keys",
        "denoiser     1 whole difference",
        "text_encoder 1 module, rank 4, scale 1",
        "transformer  3 modules, rank 4 (2), 2 (1), scale 0.5 (2), 1 (1)",
        "no layout    odd",
    ]
    as_json = json.loads(vidgen("inspect", path, "--json").out)
    assert as_json["components"]["transformer"]["ranks"] == {"4": 2, "2": 1}
    assert (as_json["unknown"], as_json["unfitting"], as_json["keys"]) == (["odd"], None, 10)


def test_what_a_model_does_not_take(vidgen: Vidgen, tmp_path: Path) -> None:
    case = references.LoraCase("ltx")
    place = case.loras[0][0]
    assert (
        vidgen("inspect", place, "--model", case.base.checkpoint)
        .out.splitlines()[-1]
        .startswith(f"model        every key fits {case.base.checkpoint}")
    )
    path = tmp_path / "more.safetensors"
    save_file(load_file(place) | {"vae.x.diff": np.ones((2, 2), np.float32)}, path)
    told = vidgen("inspect", path, "--model", case.base.checkpoint).out.splitlines()[-1]
    assert told == f"model        1 key without a place in {case.base.checkpoint}: vae.x.diff"


def test_what_is_no_lora(vidgen: Vidgen, tmp_path: Path) -> None:
    said = vidgen("inspect", tmp_path / "none.safetensors")
    assert said.status == 2
    assert "none.safetensors" in said.err
    save_file({"a.dora_scale": np.ones((2, 2), np.float32)}, tmp_path / "dora.safetensors")
    assert "DoRA is not supported" in vidgen("inspect", tmp_path / "dora.safetensors").err


def test_what_a_checkpoint_is(vidgen: Vidgen) -> None:
    case = references.case("5b")
    told = vidgen("inspect", case.checkpoint).out
    for line in (
        f"checkpoint   {case.checkpoint}",
        "family       CogVideoX (CogVideoXPipeline)",
        "tasks        text-to-video, video-to-video",
        "weights      on this machine",
    ):
        assert line in told.splitlines()
    assert "1 on 910B (bfloat16)" in told
    assert re.search(r"transformer +114,816 +0.2 MiB +0.4 MiB float32 CogVideoXTransformer3DModel", told)
    assert re.search(r"height +48 a multiple of 16", told)
    as_json = json.loads(vidgen("inspect", case.checkpoint, "--json", "--task", "video-to-video").out)
    assert (as_json["kind"], as_json["family"]) == ("checkpoint", "CogVideoX")
    assert [task["task"] for task in as_json["tasks"]] == ["video-to-video", "text-to-video"]


def test_a_variant_and_an_adapter(vidgen: Vidgen) -> None:
    case = references.case("v1-5-2", "animatediff")
    assert "name it with --adapter" in vidgen("inspect", case.checkpoint).err
    told = vidgen("inspect", case.checkpoint, "--adapter", case.options["adapter"])
    assert told.status == 0
    assert "motion_adapter" in told.out
    fp16 = references.case("img2vid", "stable_video_diffusion")
    assert "it has fp16" in vidgen("inspect", fp16.checkpoint).err
    assert "float16" in vidgen("inspect", fp16.checkpoint, "--variant", "fp16").out


def test_flags_of_the_other_kind(vidgen: Vidgen) -> None:
    case = references.LoraCase("ltx")
    said = vidgen("inspect", case.base.checkpoint, "--model", "org/model")
    assert (said.status, said.err.split(": ", 1)[1]) == (
        2,
        f"--model: not allowed; {case.base.checkpoint} is a checkpoint\n",
    )
    said = vidgen("inspect", case.loras[0][0], "--task", "text-to-video", "--variant", "fp16")
    assert said.status == 2
    assert "--task, --variant: not allowed" in said.err
