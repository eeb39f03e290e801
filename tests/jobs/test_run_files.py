"""Run files of `jobs/`: what `vidgen plan` makes of them, from configs alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from tests.commands import Vidgen
from tests.jobs.make_run_files import RUN_FILES, text_of
from tests.jobs.make_samples import SAMPLES
from tests.planner import published
from vidgen_dist.families import FAMILIES, known_fields, needed_columns
from vidgen_dist.families.rules import load_rules
from vidgen_dist.manifest import check
from vidgen_dist.manifest_build import build
from vidgen_dist.planner import planned_run
from vidgen_dist.preflight.manifest_check import open_run_manifest
from vidgen_dist.preflight.sampling import check_sampling, sampling_defaults
from vidgen_dist.request import sources_of
from vidgen_dist.spec import parse_spec

ROOT = Path(__file__).parents[2]
JOBS = sorted((ROOT / "jobs").glob("*.yaml"))

OF_480P = {"frames": 49, "height": 480, "width": 720, "steps": 50, "guided": True, "tokens": 13 * 30 * 45}
OF_768P = {"frames": 81, "height": 768, "width": 1360, "steps": 50, "guided": True, "tokens": 11 * 48 * 85}

EXPECTED: dict[str, dict[str, Any]] = {
    "cogvideox-2b": OF_480P,
    "cogvideox-5b": OF_480P,
    "cogvideox-5b-i2v": {**OF_480P, "encoded_frames": 1},
    # A fifth of the steps is left out.
    "cogvideox-5b-v2v": {**OF_480P, "steps": 40, "encoded_frames": 49},
    "cogvideox1.5-5b": OF_768P,
    "cogvideox1.5-5b-i2v": {**OF_768P, "encoded_frames": 1},
    "hunyuanvideo": {
        "frames": 61,
        "height": 320,
        "width": 512,
        "steps": 30,
        "guided": False,
        "tokens": 16 * 20 * 32,
    },
    "ltx": {"frames": 161, "height": 480, "width": 704, "steps": 50, "guided": True, "tokens": 21 * 15 * 22},
    "ltx-0.9.1-i2v": {"frames": 161, "encoded_frames": 1, "tokens": 21 * 15 * 22},
    "animatediff": {
        "frames": 16,
        "height": 512,
        "width": 512,
        # Of the checkpoint's own scheduler, one more than was asked for: the file's is not opened here.
        "steps": 51,
        "guided": True,
        "tokens": 16 * 64 * 64,
    },
    "stable-video-diffusion": {
        "frames": 25,
        "height": 576,
        "width": 1024,
        "steps": 25,
        "guided": True,
        "tokens": 25 * 72 * 128,
        "encoded_frames": 1,
    },
    "i2vgen-xl": {
        "frames": 16,
        "height": 352,
        "width": 640,
        "steps": 50,
        "guided": False,
        "tokens": 16 * 44 * 80,
        "encoded_frames": 1,
    },
    "stable-diffusion-v1-5": {"frames": 16, "height": 512, "width": 512, "tokens": 16 * 64 * 64},
    "stable-video-diffusion-xt-1-1": {"frames": 25, "steps": 25, "tokens": 25 * 72 * 128},
    "stable-video-diffusion-14": {"frames": 25, "steps": 25, "tokens": 25 * 72 * 128},
    # 84 frames are made 79.
    "mochi": {"frames": 79, "height": 480, "width": 848, "steps": 64, "guided": True, "tokens": 14 * 30 * 53},
}


@pytest.mark.parametrize("path", JOBS, ids=[path.stem for path in JOBS])
def test_a_run_file_asks_for_what_the_guide_asks_for(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vidgen: Vidgen
) -> None:
    model = yaml.safe_load(path.read_text(encoding="utf-8"))["model"]["id"]
    opened = published.checkpoint(tmp_path, published.NAMES[model])
    monkeypatch.setattr(planned_run, "open_model_checkpoint", lambda *_, **__: opened)
    ran = vidgen("plan", path, "--json")
    assert ran.status == 0, ran.err
    plan = json.loads(ran.out)
    video = EXPECTED[path.stem]
    assert {key: plan["video"][key] for key in video} == video
    assert plan["chosen"]["fits"]


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_run_files_to_copy(path: Path) -> None:
    spec = parse_spec(path.read_bytes(), str(path))
    check_sampling(spec)
    assert spec.output.uri == f"out/{path.stem}"
    assert path.read_text(encoding="utf-8") == text_of(path.stem), (
        "write it again: python -m tests.jobs.make_run_files"
    )


def test_every_published_checkpoint_has_a_run_file() -> None:
    published_ids = {model for family in FAMILIES for model in family.published}
    assert {job.model for job in RUN_FILES.values()} == published_ids
    assert {path.stem for path in JOBS} == RUN_FILES.keys() == EXPECTED.keys()


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_its_sample_manifest_can_be_rendered(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vidgen: Vidgen
) -> None:
    monkeypatch.chdir(ROOT)
    spec = parse_spec(path.read_bytes(), str(path))
    opened = published.checkpoint(tmp_path, published.NAMES[spec.model.id])
    manifest = open_run_manifest(spec, load_rules(opened, spec.model.task))
    report = check(manifest, defaults=sampling_defaults(spec, load_rules(opened, spec.model.task)))
    assert report.ok, report.problems
    assert report.rows
    assert vidgen("manifest", "check", spec.manifest.uri).status == 0
    for row in manifest.rows():
        for source in sources_of(row.request.values()).values():
            assert Path(source.value).is_file()


@pytest.mark.parametrize("source", sorted(SAMPLES.glob("*.csv")), ids=lambda path: path.stem)
def test_a_sample_manifest_is_built_from_its_text(source: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(SAMPLES, tmp_path / "samples")
    built = copied / "built.parquet"
    build([str(copied / source.name)], str(built), fields=known_fields(), one_of=needed_columns())
    assert pq.read_table(built).equals(pq.read_table(source.with_suffix(".parquet")))
