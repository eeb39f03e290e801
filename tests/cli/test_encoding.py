"""`vidgen encode`: prompts are encoded before a run, which then loads no text encoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests import references
from tests.commands import Vidgen
from vidgen_dist import RenderRequest, load_pipeline
from vidgen_dist.families.loader import load_model
from vidgen_dist.spec import make_model

pytestmark = pytest.mark.usefixtures("local_ray")

SMALL = {"height": 32, "width": 32, "num_frames": 1, "num_inference_steps": 2, "max_sequence_length": 24}


@pytest.fixture
def run_file(tmp_path: Path, make_manifest: Callable[..., str]) -> Path:
    case = references.case("0.9.0", "ltx")
    prompts = ["a fox", "a cat", "a fox", "a dog"]
    manifest = make_manifest(*({"id": str(i), "prompt": prompt} for i, prompt in enumerate(prompts)))
    sampling = ", ".join(f"{name}: {value}" for name, value in SMALL.items())
    path = tmp_path / "run.yaml"
    path.write_text(
        f"model: {{id: {case.checkpoint}, prompt_cache: {tmp_path}/cache}}\n"
        f"manifest: {{uri: {manifest}}}\noutput: {{uri: {tmp_path}/out}}\n"
        f"topology: {{device: cpu}}\nsampling: {{{sampling}}}\n"
    )
    return path


def entries(tmp_path: Path) -> int:
    return len(list((tmp_path / "cache").rglob("*.safetensors")))


def test_a_run_after_it_loads_no_encoder(vidgen: Vidgen, run_file: Path, tmp_path: Path) -> None:
    said = vidgen("encode", run_file)
    assert (said.status, said.out) == (0, f"4 rows encoded, in {tmp_path}/cache\n")
    # Three prompts, and the empty negative one.
    assert entries(tmp_path) == 4
    case = references.case("0.9.0", "ltx")
    model = make_model({"id": str(case.checkpoint), "prompt_cache": f"{tmp_path}/cache"}, "test")
    pipeline = load_model(model)
    request = RenderRequest(prompt="a cat", **SMALL)
    frames = pipeline(request)
    assert not pipeline.text_encoder._weights.loaded
    np.testing.assert_array_equal(frames, load_pipeline(str(case.checkpoint))(request))


def test_several_workers(vidgen: Vidgen, run_file: Path, tmp_path: Path) -> None:
    assert "4 rows encoded" in vidgen("encode", run_file, "--workers", "2").out
    assert entries(tmp_path) == 4


def test_what_is_wrong_is_named(vidgen: Vidgen, run_file: Path) -> None:
    run_file.write_text(run_file.read_text().replace("prompt_cache", "revision"))
    assert "prompt_cache is missing" in vidgen("encode", run_file).err
