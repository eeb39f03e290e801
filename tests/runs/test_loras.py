"""A run whose rows have LoRAs of their own: few changes of weights, and each row's own frames."""

from __future__ import annotations

import io
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from safetensors import safe_open
from safetensors.numpy import save_file

from tests import references
from tests.outputs import entries
from tests.runs.killing_engine import KILLING_ENGINE
from vidgen_dist import RenderRequest, load_pipeline
from vidgen_dist.media import to_uint8
from vidgen_dist.runtime.driver.render import RunResult, render
from vidgen_dist.spec import RunSpec

MakeSpec = Callable[..., RunSpec]
MakeManifest = Callable[..., str]

CASE = references.case("0.9.0", "ltx")
SMALL = {"height": 32, "width": 32, "num_frames": 1, "num_inference_steps": 2, "guidance_scale": 1.0}


def run(spec: RunSpec, engine: str | None = None) -> RunResult:
    return render(spec, Console(file=io.StringIO()), engine=engine)


def write_lora(path: Path, seed: int, width: int = 0) -> str:
    """A random LoRA for LTX's projection of latents; with a width, for another model."""
    with safe_open(CASE.checkpoint / "transformer/diffusion_pytorch_model.safetensors", "np") as file:
        outputs, inputs = file.get_slice("proj_in.weight").get_shape()
    rng = np.random.default_rng(seed)
    up = rng.standard_normal((width or outputs, 2)).astype(np.float32)
    down = rng.standard_normal((2, inputs)).astype(np.float32)
    save_file({"transformer.proj_in.lora_A.weight": down, "transformer.proj_in.lora_B.weight": up}, path)
    return str(path)


def changes_in_logs(output: Path) -> int:
    """How often workers changed LoRAs, by their logs."""
    lines = [line for file in (output / "logs").rglob("*.jsonl") for line in file.read_text().splitlines()]
    return sum(json.loads(line)["event"] == "loras" for line in lines)


@pytest.mark.usefixtures("local_ray", "unchecked")
def test_sixty_rows_of_six_loras(make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path) -> None:
    loras = [write_lora(tmp_path / f"{k}.safetensors", k) for k in range(6)]
    rows: list[dict[str, Any]] = [
        {"id": f"{i:02}", "prompt": "a fox", "seed": i, "lora": loras[i % 6], "lora_scale": 0.5}
        for i in range(60)
    ]
    wrong = {**rows[0], "id": "wrong", "lora": write_lora(tmp_path / "wrong.safetensors", 7, width=5)}
    random.Random(0).shuffle(rows)
    flags = {f"sampling__{name}": value for name, value in SMALL.items()}
    spec = make_spec(
        make_manifest(*rows, wrong),
        model__id=str(CASE.checkpoint),
        topology__replicas=2,
        faults__bad_rows="fail",
        **flags,
    )
    result = run(spec)
    assert (result.done, result.failed) == (60, 1), result
    assert "LoraError" in result.failures[0]
    assert changes_in_logs(tmp_path / "out") <= 6 + 2
    assert 6 <= result.lora_changes <= 6 + 2
    stored = {entry["id"]: entry for entry in entries(tmp_path / "out")}
    assert stored["wrong"]["error_class"] == "LoraError"
    pipeline = load_pipeline(str(CASE.checkpoint))
    for row in rows[:12]:
        alone = pipeline(RenderRequest(**{**row, **SMALL}))
        entry = stored[row["id"]]
        np.testing.assert_array_equal(np.load(entry["uri"]), to_uint8(alone), err_msg=row["id"])
        (recorded,) = entry["loras"]
        assert (recorded["id"], recorded["scale"], len(recorded["digest"])) == (row["lora"], 0.5, 64)
    assert run(spec).done == 0


@pytest.mark.usefixtures("local_ray", "unchecked")
def test_a_process_that_dies_while_it_changes_weights(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path
) -> None:
    """Its gang is replaced; no row gets weights that were changed by half."""
    loras = [references.LoraCase("ltx").loras[0][0], write_lora(tmp_path / "b.safetensors", 1)]
    place = shutil.copy(loras[0], tmp_path / "a.safetensors")
    rows = [
        {"id": "0", "prompt": "a fox", "seed": 1, "lora": None},
        {"id": "1", "prompt": "a fox", "seed": 1, "lora": str(place)},
        {"id": "2", "prompt": "a fox", "seed": 1, "lora": loras[1]},
    ]
    spec = make_spec(
        make_manifest(*rows),
        model__id=str(CASE.checkpoint),
        topology__replicas=1,
        topology__ulysses=2,
        **{f"sampling__{name}": value for name, value in SMALL.items()},
    )
    result = run(spec, KILLING_ENGINE)
    assert (result.done, result.failed) == (3, 0), result
    assert (tmp_path / "killed").exists()
    stored = {entry["id"]: np.load(entry["uri"]).astype(int) for entry in entries(tmp_path / "out")}
    pipeline = load_pipeline(str(CASE.checkpoint))
    for row in rows:
        alone = to_uint8(pipeline(RenderRequest(**{**row, **SMALL}))).astype(int)
        assert np.abs(stored[row["id"]] - alone).max() <= 1, row["id"]
