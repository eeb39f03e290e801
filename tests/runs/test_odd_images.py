"""Odd images from practice, in `vidgen manifest check` and in a run of a tiny image-to-video model."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console

from tests import references
from tests.media.odd_images import READ, REFUSED, animated, encoded
from tests.outputs import entries
from vidgen_dist import media
from vidgen_dist.preflight.manifest_check import check_manifest
from vidgen_dist.runtime.driver.render import render
from vidgen_dist.spec import RunSpec

SIZES = {"1x1": (1, 1), "20000x1": (20_000, 1), "1x20000": (1, 20_000)}
RENDERED = ("16-bit grey", "cmyk of Adobe", "palette, alpha of each", "avif")
SETTINGS = {"height": 32, "width": 48, "num_frames": 1, "num_inference_steps": 1}

pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A manifest, `m.parquet`, of good and bad images; each row's id is its image's kind."""
    files = {kind: encoded(Image.new("RGB", size, "teal"), "PNG") for kind, size in SIZES.items()}
    files |= {kind: READ[kind][0]() for kind in RENDERED}
    files |= {kind: make() for kind, (make, _) in REFUSED.items()}
    for kind, content in files.items():
        (tmp_path / f"{kind}.jpg").write_bytes(content)
    (tmp_path / "folder.jpg").mkdir()
    kinds = [*files, "folder", "missing"]
    columns = {"id": kinds, "prompt": ["a fox"] * len(kinds), "image": [f"{kind}.jpg" for kind in kinds]}
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    return tmp_path


def reasons() -> dict[str, str]:
    """Rows that cannot be rendered -> the reason in the message."""
    bad = {kind: reason for kind, (_, reason) in REFUSED.items()}
    return bad | {"folder": "Is a directory", "missing": "No such file"}


def test_check_names_every_bad_image(folder: Path) -> None:
    flags = {"model.id": str(references.case("i2v").checkpoint)}
    report = check_manifest(str(folder / "m.parquet"), flags)
    texts = {problem.id: str(problem) for problem in report.problems}
    # The first twenty are named, all are counted.
    assert list(texts) == list(reasons())[:20]
    for kind, text in texts.items():
        assert re.search(rf"m\.parquet, row \d+ \(id '{kind}'\): image: .*/{kind}\.jpg: ", text), text
        assert reasons()[kind] in text
    assert report.counts == {"image": len(reasons())}


def test_check_prints_only_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(REFUSED["large png"][0]())
    pq.write_table(pa.table({"prompt": ["x"], "image": ["large.png"]}), tmp_path / "m.parquet")
    command = [sys.executable, "-m", "vidgen_dist", "manifest", "check", str(tmp_path / "m.parquet")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 2
    assert "large.png: 10000x10000 pixels; allowed: up to" in ran.stderr
    assert "Warning" not in ran.stderr


def test_check_tells_a_bad_clip_from_a_good_image(tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes(READ["rgba"][0]())
    (tmp_path / "good.webp").write_bytes(animated("WEBP"))
    (tmp_path / "bad.mp4").write_bytes(b"<html>404")
    rows = [("good.png", "bad.mp4"), ("bad.mp4", "good.webp"), ("good.png", "good.webp")]
    columns = {"id": list("abc"), "image": [row[0] for row in rows], "video": [row[1] for row in rows]}
    pq.write_table(pa.table({"prompt": list("xyz"), **columns}), tmp_path / "m.parquet")
    report = check_manifest(str(tmp_path / "m.parquet"), {})
    assert [(problem.id, problem.column) for problem in report.problems] == [("a", "video"), ("b", "image")]
    assert all("bad.mp4: does not decode as" in problem.message for problem in report.problems)


@pytest.mark.usefixtures("local_ray", "unchecked")
def test_bad_images_are_dead_letters_and_the_run_goes_on(
    folder: Path, make_spec: Callable[..., RunSpec]
) -> None:
    spec = make_spec(
        str(folder / "m.parquet"),
        model__id=str(references.case("i2v").checkpoint),
        topology__replicas=1,
        **{f"sampling__{name}": value for name, value in SETTINGS.items()},
    )
    result = render(spec, console=Console(file=io.StringIO()))
    assert (result.done, result.failed, result.exit_status) == (len(SIZES) + len(RENDERED), len(reasons()), 1)
    found = {entry["id"]: entry for entry in entries(folder / "out")}
    assert {kind for kind, entry in found.items() if entry["status"] == "failed"} == set(reasons())
    for kind, reason in reasons().items():
        message = found[kind]["error_message"]
        assert found[kind]["error_class"] == ("FileNotFoundError" if kind == "missing" else "MediaError")
        assert reason in message
        assert f"/{kind}.jpg: " in message
        assert f"{folder}/{kind}.jpg: {folder}" not in message
    for kind in RENDERED:
        assert media.read_image(folder / f"{kind}.jpg").size == (24, 16)
