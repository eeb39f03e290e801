"""The demo's manifest, checkpoint and command."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.commands import Vidgen
from tests.demo_model.clips import MOTIONS, SHAPES, all_clips
from vidgen_dist import engine, load_pipeline
from vidgen_dist.demo import SAMPLING, checkpoint_path, manifest_path
from vidgen_dist.manifest import open_manifest
from vidgen_dist.weights.contract import read_contract

ROWS = list(open_manifest(str(manifest_path())).rows())


def test_the_manifest_is_made_of_the_table_beside_the_training() -> None:
    with Path("tests/demo_model/manifest.csv").open(encoding="utf-8") as file:
        expected = [(row["id"], row["prompt"], int(row["seed"])) for row in csv.DictReader(file)]
    assert [(row.id, row.request.prompt, row.request.seed) for row in ROWS] == expected


def test_the_manifest_shows_all_that_there_is_and_nothing_that_was_trained() -> None:
    by_prompt = {clip.prompt: clip for clip in all_clips()}
    clips = [by_prompt[str(row.request.prompt)] for row in ROWS]
    assert all(clip.held_out for clip in clips)
    assert {clip.motion for clip in clips} == set(MOTIONS)
    assert {clip.shape for clip in clips} == set(SHAPES)
    assert len({clip.colour for clip in clips}) == len({clip.ground for clip in clips}) == 6


def test_the_checkpoint_is_small_and_has_a_card() -> None:
    files = [path for path in checkpoint_path().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12e6
    card = (checkpoint_path() / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlicense: apache-2.0\n")
    for field in ("num_inference_steps", "guidance_scale"):
        assert f"--set {field}={SAMPLING[field]:g}" in card


def test_the_checkpoint_is_used_as_it_was_trained() -> None:
    contract = read_contract(checkpoint_path())
    assert contract is not None
    assert contract.sampling == {"max_sequence_length": SAMPLING["max_sequence_length"]}
    configs = load_pipeline(str(checkpoint_path())).configs
    spatial = configs.vae.spatial_compression_ratio
    transformer = configs.transformer
    assert {field: SAMPLING[field] for field in ("num_frames", "height", "width", "max_sequence_length")} == {
        "num_frames": transformer.sample_frames,
        "height": transformer.sample_height * spatial,
        "width": transformer.sample_width * spatial,
        "max_sequence_length": transformer.max_text_seq_length,
    }


@pytest.mark.usefixtures("local_ray", "unchecked")
def test_the_second_call_renders_nothing_and_says_so(
    vidgen: Vidgen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "ENGINE", "tests.fake_engine")
    # It takes no prompts that are filled up.
    monkeypatch.delitem(SAMPLING, "max_sequence_length")
    cache = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    first = vidgen("demo", tmp_path / "out")
    assert first.status == 0
    assert f"checkpoint: {checkpoint_path()}\n" in first.out
    assert "contact-sheet.png" in first.out
    assert "nothing to render" not in first.err
    sheet = tmp_path / "out" / "contact-sheet.png"
    made = sheet.stat().st_mtime_ns
    second = vidgen("demo", tmp_path / "out")
    assert second.status == 0
    assert second.err.startswith("nothing to render: all 6 rows are done\n")
    assert second.out == first.out
    assert sheet.stat().st_mtime_ns == made
    sheet.unlink()
    assert vidgen("demo", tmp_path / "out").out == first.out
    assert sheet.exists()
    assert not cache.exists()
