"""`vidgen compare`: what is printed, files, exit statuses."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.commands import Vidgen, run_apart
from tests.maintenance.outputs import path_in_output, put_clips, smooth
from vidgen_dist.maintenance.comparison import SCHEMA
from vidgen_dist.storage.folder import Storage


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Storage, Storage]:
    """Two rows that differ, one that is equal, seven that are in A alone."""
    common = {"[red]x": smooth(0), "line\nbreak": smooth(1), "same": smooth(2)}
    a = put_clips(str(tmp_path / "a"), common | {f"more {n}": smooth(3) for n in range(7)})
    other = smooth(1)
    other[0] //= 2
    b = put_clips(str(tmp_path / "b"), {"[red]x": smooth(4), "line\nbreak": other, "same": smooth(2)})
    return a, b


def test_the_table(pair: tuple[Storage, Storage], vidgen: Vidgen) -> None:
    ran = vidgen("compare", pair[0].root, pair[1].root, "--worst", "1")
    assert ran.status == 0
    lines = [" ".join(line.split()) for line in ran.out.splitlines()]
    for line in ("rows 10", "compared 3", "only in A 7", "same frames 1", "same bytes 1"):
        assert line in lines
    assert sum("dB" in line and "'" in line for line in lines) == 1
    assert "the worst 1 of 2 that differ" in ran.err
    # Rows of A alone are some, and not among the worst.
    assert sum(line.startswith("only in A: id 'more ") for line in lines) == 5
    assert "the first 5 of 7" in ran.err
    both = vidgen("compare", pair[0].root, pair[1].root).out
    assert "'[red]x'" in both
    assert r"'line\nbreak'" in both


def test_equal_outputs(tmp_path: Path, vidgen: Vidgen) -> None:
    for name in "ab":
        put_clips(str(tmp_path / name), {"x": smooth(0)})
    flags = ("--min-psnr", "60", "--min-ssim", "1")
    ran = vidgen("compare", tmp_path / "a", tmp_path / "b", *flags)
    assert (ran.status, ran.err) == (0, "")
    assert "infinite: all frames are equal" in ran.out
    assert "worst frame" not in ran.out
    found = json.loads(vidgen("compare", tmp_path / "a", tmp_path / "b", "--json").out)
    assert (found["psnr"], found["mse"], found["same_frames"], found["worst"]) == (None, 0, 1, [])


def test_json(pair: tuple[Storage, Storage], vidgen: Vidgen) -> None:
    ran = vidgen("compare", pair[0].root, pair[1].root, "--json", "--min-psnr", "100")
    assert ran.status == 1
    found = json.loads(ran.out)
    assert (found["rows"], found["below"], found["outcomes"]["compared"]) == (10, 2, 3)
    assert [row["id"] for row in found["worst"]] == ["[red]x", "line\nbreak"]
    assert list(found["not_compared"]) == ["only in A"]
    assert len(found["not_compared"]["only in A"]) == 5


@pytest.mark.parametrize(
    ("flags", "status"),
    [
        ((), 0),
        (("--min-psnr", "1"), 0),
        (("--min-psnr", "100"), 1),
        (("--min-ssim", "-1"), 0),
        (("--min-ssim", "0.999"), 1),
    ],
)
def test_exit_statuses(tmp_path: Path, vidgen: Vidgen, flags: tuple[str, ...], status: int) -> None:
    put_clips(str(tmp_path / "a"), {"x": smooth(0)})
    put_clips(str(tmp_path / "b"), {"x": smooth(1)})
    assert vidgen("compare", tmp_path / "a", tmp_path / "b", *flags).status == status


def test_limits_are_for_rows_that_were_not_compared_too(
    pair: tuple[Storage, Storage], vidgen: Vidgen
) -> None:
    assert vidgen("compare", pair[0].root, pair[1].root, "--min-psnr", "0").status == 1


def test_a_missing_video(pair: tuple[Storage, Storage], vidgen: Vidgen) -> None:
    a, b = pair
    Path(b.uri(path_in_output(b, "[red]x"))).unlink()
    ran = vidgen("compare", a.root, b.root)
    assert ran.status == 1
    assert "unreadable: id '[red]x': B: videos/" in ran.out


def test_files(pair: tuple[Storage, Storage], vidgen: Vidgen, tmp_path: Path) -> None:
    table, folder = tmp_path / "rows.parquet", tmp_path / "pictures"
    ran = vidgen("compare", pair[0].root, pair[1].root, "--export", table, "--frames", folder)
    assert ran.status == 0
    assert f"2 pictures in {folder}" in ran.err
    found = pq.read_table(table)
    assert found.schema == SCHEMA
    assert len(found) == 10
    assert len(list(folder.glob("*.png"))) == 2


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--rows", "0"), "--rows"),
        (("--worst", "0"), "--worst"),
        (("--min-psnr", "-1"), "--min-psnr"),
        (("--min-psnr", "nan"), "--min-psnr"),
        (("--min-ssim", "1.1"), "--min-ssim"),
        (("--min-ssim", "nan"), "--min-ssim"),
        (("--export", "rows.csv"), "*.parquet"),
    ],
)
def test_flags_out_of_range(
    pair: tuple[Storage, Storage], vidgen: Vidgen, flags: tuple[str, ...], said: str
) -> None:
    ran = vidgen("compare", pair[0].root, pair[1].root, *flags)
    assert ran.status == 2
    assert said in ran.err


def test_what_is_no_pair_of_outputs(pair: tuple[Storage, Storage], vidgen: Vidgen, tmp_path: Path) -> None:
    assert vidgen("compare", pair[0].root, tmp_path / "nothing").status == 2
    assert "the same output" in vidgen("compare", pair[0].root, pair[0].root).err


def test_neither_ray_nor_mindspore_is_loaded(pair: tuple[Storage, Storage]) -> None:
    out, loaded = run_apart("compare", pair[0].root, pair[1].root)
    assert "compared" in out
    assert loaded == "[]"
