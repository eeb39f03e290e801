"""`vidgen compare`: the videos of two outputs, row by row."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from tests.fake_engine import FAKE_ENGINE
from tests.maintenance.exports import put_failure
from tests.maintenance.outputs import ODD_IDS, path_in_output, put_clips, put_run, put_video, smooth
from vidgen_dist.errors import Refused
from vidgen_dist.ledger import LedgerWriter
from vidgen_dist.maintenance.comparison import (
    COMPARED,
    NOT_DONE,
    ONLY_A,
    ONLY_B,
    SCHEMA,
    SHAPES_DIFFER,
    UNREADABLE,
    Comparison,
    compare_outputs,
)
from vidgen_dist.runtime.driver.render import render
from vidgen_dist.spec import RunSpec


class Outputs:
    """Two outputs to compare."""

    def __init__(self, folder: Path) -> None:
        self.a, self.b = str(folder / "a"), str(folder / "b")

    def compare(self, **options: object) -> Comparison:
        found = compare_outputs(self.a, self.b, **options)  # type: ignore[arg-type]
        assert found.rows.schema == SCHEMA
        return found


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    return Outputs(tmp_path)


def outcomes(found: Comparison) -> dict[str, int]:
    return {name: count for name, count in found.summary()["outcomes"].items() if count}


def only_row(found: Comparison) -> dict[str, object]:
    (row,) = found.rows.to_pylist()
    return row


@pytest.mark.usefixtures("local_ray", "unchecked")
def test_runs_with_other_numbers_of_replicas_are_equal(
    make_spec: Callable[..., RunSpec], make_manifest: Callable[..., str], outputs: Outputs
) -> None:
    manifest = make_manifest("one", "two", "three")
    for uri, replicas in ((outputs.a, 1), (outputs.b, 2)):
        spec = make_spec(manifest, output__uri=uri, topology__replicas=replicas)
        assert render(spec, Console(file=io.StringIO()), engine=FAKE_ENGINE).done == 3
    for deep in (False, True):
        summary = outputs.compare(deep=deep).summary()
        assert (summary["same_bytes"], summary["same_frames"], summary["psnr"]) == (3, 3, math.inf)


@pytest.mark.parametrize("format", ["mp4", "gif", "png"])
def test_a_format_against_the_frames_themselves(outputs: Outputs, format: str) -> None:
    clips = {row: smooth(number) for number, row in enumerate(("a", "b"))}
    put_clips(outputs.a, clips)
    put_clips(outputs.b, clips, format)
    found = outputs.compare()
    assert outcomes(found) == {COMPARED: 2}
    summary = found.summary()
    assert summary["same_bytes"] == 0
    if format == "png":
        assert (summary["same_frames"], summary["mse"], summary["ssim"]) == (2, 0, 1)
    else:
        assert 25 < summary["psnr"] < 60
        assert 0.8 < summary["ssim"] < 1
        assert len(found.different) == 2


def test_figures_and_order(outputs: Outputs) -> None:
    base = np.full((4, 16, 16, 3), 100, np.uint8)
    slight, strong = base.copy(), base.copy()
    slight[2:] += 1
    strong[1] += 50
    put_clips(outputs.a, {"slight": base, "strong": base, "same": base})
    put_clips(outputs.b, {"slight": slight, "strong": strong, "same": base}, fps=16)
    found = outputs.compare()
    rows = found.rows.to_pylist()
    assert [row["id"] for row in rows] == ["strong", "slight", "same"]
    assert [row["mse"] for row in rows] == [2500 / 4, 0.5, 0]
    assert [row["psnr"] for row in rows] == pytest.approx([10 * math.log10(255**2 / 625), 51.1411, math.inf])
    places = [(row["first_different_frame"], row["worst_frame"]) for row in rows]
    assert places == [(1, 1), (2, 2), (None, None)]
    assert [row["same_frames"] for row in rows] == [False, False, True]
    assert {(row["frames"], row["height"], row["width"]) for row in rows} == {(4, 16, 16)}
    assert {(row["fps_a"], row["fps_b"]) for row in rows} == {(8, 16)}
    assert found.different["id"].to_pylist() == ["strong", "slight"]
    summary = found.summary()
    assert summary["mse"] == pytest.approx((625 + 0.5) / 3)
    assert summary["different_fps"] == 3
    assert found.below(30) == 1
    assert found.below(60) == 2
    assert found.below(None, 1) == 2
    assert found.below() == 0


def test_long_videos_count_more(outputs: Outputs) -> None:
    black = {"short": np.zeros((1, 16, 16, 3), np.uint8), "long": np.zeros((3, 16, 16, 3), np.uint8)}
    put_clips(outputs.a, black)
    put_clips(outputs.b, {"short": black["short"] + np.uint8(4), "long": black["long"]})
    assert outputs.compare().summary()["mse"] == 16 / 4


def test_rows_without_figures(outputs: Outputs) -> None:
    """Each outcome once; the rows that are only in one output come last."""
    names = ("missing", "torn", "failed", "shape", "same", "line\nbreak")
    for uri, own in ((outputs.a, "only a"), (outputs.b, "only b")):
        put_clips(uri, {row: smooth(number) for number, row in enumerate((*names, own))})
    a, b = put_run(outputs.a, "npy", ids=()), put_clips(outputs.b, {"shape": smooth(3, frames=4)})
    with LedgerWriter(b, "w") as writer:
        for row in ("missing", "torn"):
            # Rendered again, to other bytes.
            local = put_video(b, row, 1, "npy")
            writer.append(replace(local, extra={}, attempt=2, fingerprint="other"))
    Path(b.uri(path_in_output(b, "missing"))).unlink()
    Path(b.uri(path_in_output(b, "torn"))).write_bytes(b"torn")
    put_failure(a, "failed")
    found = outputs.compare()
    rows = {row["id"]: row for row in found.rows.to_pylist()}
    assert {row: each["outcome"] for row, each in rows.items()} == {
        "missing": UNREADABLE,
        "torn": UNREADABLE,
        "failed": NOT_DONE,
        "shape": SHAPES_DIFFER,
        "same": COMPARED,
        "line\nbreak": COMPARED,
        "only a": ONLY_A,
        "only b": ONLY_B,
    }
    assert "there is no such file" in rows["missing"]["reason"]
    assert "SHA-256" in rows["torn"]["reason"]
    assert rows["failed"]["reason"] == "A: failed"
    assert rows["shape"]["reason"] == "3 frames of 48x32 and 4 frames of 48x32"
    assert rows["only a"]["uri_b"] is None
    assert all(each["psnr"] is None for each in rows.values() if each["outcome"] != COMPARED)
    assert found.rows["id"].to_pylist()[-2:] == ["only a", "only b"]
    assert (found.all_rows, len(found.rows), len(found.compared)) == (8, 8, 2)


def test_a_video_that_does_not_decode(outputs: Outputs) -> None:
    """Its file is what the ledger says, but it is no video."""
    put_clips(outputs.a, {"a": smooth(0)}, "npy")
    b = put_run(outputs.b, "npy", ids=())
    local = put_video(b, "a", 0, "npy")
    b.write_bytes(path_in_output(b, "a"), b"no array")
    with LedgerWriter(b, "w") as writer:
        writer.append(replace(local, extra={}, sha256=None))
    assert only_row(outputs.compare())["outcome"] == UNREADABLE


def test_odd_sizes(outputs: Outputs) -> None:
    """mp4 pads them, as its ledger says: two mp4 files are compared, a padded and another one are not."""
    odd = {"a": smooth(0, height=31, width=47)}
    put_clips(outputs.a, odd, "mp4")
    put_clips(outputs.b, odd, "npy")
    row = only_row(outputs.compare())
    assert (row["outcome"], row["reason"]) == (SHAPES_DIFFER, "3 frames of 48x32 and 3 frames of 47x31")


def test_frames_smaller_than_the_window(outputs: Outputs) -> None:
    put_clips(outputs.a, {"a": smooth(0, height=8)})
    put_clips(outputs.b, {"a": smooth(1, height=8)})
    found = outputs.compare()
    row = only_row(found)
    assert row["ssim"] is None
    assert row["psnr"] is not None
    assert row["reason"] == "no SSIM: a frame is smaller than its window, 11x11"
    assert (found.summary()["ssim"], found.below(None, -1)) == (None, 1)


def test_videos_of_the_same_bytes_are_read_only_if_asked_to(outputs: Outputs) -> None:
    for uri in (outputs.a, outputs.b):
        put_clips(uri, {"a": smooth(0)})
    read = only_row(outputs.compare(deep=True))
    assert only_row(outputs.compare()) == read
    output = put_run(outputs.b, "npy", ids=())
    Path(output.uri(path_in_output(output, "a"))).unlink()
    assert only_row(outputs.compare())["same_bytes"]
    assert only_row(outputs.compare(deep=True))["outcome"] == UNREADABLE


def test_a_sample_is_chosen_before_a_video_is_read(outputs: Outputs) -> None:
    ids = [f"row {number}" for number in range(40)]
    put_clips(outputs.a, {row: smooth(0) for row in ids})
    b = put_clips(outputs.b, {row: smooth(1) for row in reversed(ids)})
    sample = outputs.compare(rows=5)
    chosen = set(sample.rows["id"].to_pylist())
    assert (sample.all_rows, len(chosen), outcomes(sample)) == (40, 5, {COMPARED: 5})
    for row in set(ids) - chosen:
        Path(b.uri(path_in_output(b, row))).unlink()
    progress: list[tuple[int, int]] = []
    again = outputs.compare(rows=5, progress=lambda done, total: progress.append((done, total)))
    assert again.rows == sample.rows
    assert progress == [(n, 5) for n in range(1, 6)]
    assert chosen < set(outputs.compare(rows=6).rows["id"].to_pylist())


def test_any_id(outputs: Outputs) -> None:
    for number, uri in enumerate((outputs.a, outputs.b)):
        put_clips(uri, {row: smooth(number) for row in ODD_IDS})
    found = outputs.compare()
    assert set(found.rows["id"].to_pylist()) == set(ODD_IDS)
    assert outcomes(found) == {COMPARED: len(ODD_IDS)}


def test_outputs_without_a_common_row(outputs: Outputs) -> None:
    put_clips(outputs.a, {"a": smooth(0)})
    put_clips(outputs.b, {"b": smooth(0)})
    found = outputs.compare()
    assert outcomes(found) == {ONLY_A: 1, ONLY_B: 1}
    summary = found.summary()
    assert [summary[name] for name in ("mse", "psnr", "ssim", "mean_difference", "same_frames")] == [
        None
    ] * 4 + [0]


def test_what_is_refused(outputs: Outputs, tmp_path: Path) -> None:
    put_clips(outputs.a, {"a": smooth(0)})
    with pytest.raises(Refused, match=r"no run\.yaml"):
        outputs.compare()
    put_run(outputs.b, ids=())
    with pytest.raises(Refused, match=r"B: .*b: its ledger has no entries"):
        outputs.compare()
    for same in (outputs.a, f"{outputs.a}/", str(tmp_path / "x" / ".." / "a")):
        with pytest.raises(Refused, match="the same output"):
            compare_outputs(outputs.a, same)
    with pytest.raises(Refused, match="rows: 0"):
        outputs.compare(rows=0)


def test_on_s3(s3_bucket: str, outputs: Outputs) -> None:
    put_clips(outputs.a, {"a": smooth(0), "b": smooth(1)})
    on_s3 = f"s3://{s3_bucket}/b"
    put_clips(on_s3, {"a": smooth(0), "b": smooth(1)}, "png")
    found = compare_outputs(outputs.a, on_s3)
    assert found.summary()["same_frames"] == 2
    assert compare_outputs(on_s3, outputs.a).summary()["same_frames"] == 2
