"""`vidgen report`: its arguments, and what it prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import Vidgen, run_apart
from tests.maintenance.outputs import path_in_output
from tests.maintenance.report.outputs import put_output, put_two_outputs


def test_report(vidgen: Vidgen, tmp_path: Path) -> None:
    output = put_output(tmp_path, videos=3, failures=1)
    ran = vidgen("report", output.root, "--rows", "3")
    index = f"{output.root}/report/index.html"
    assert (ran.status, ran.out) == (0, f"{index}: 3 of 4 rows, 2 posters, 2 videos\n")
    assert Path(index).exists()
    assert ran.err == f"next: open {index} in a browser\n"


def test_what_is_missing_is_said(vidgen: Vidgen, tmp_path: Path) -> None:
    output = put_output(tmp_path, videos=3, failures=0)
    output.delete(path_in_output(output, "clip-01"))
    (tmp_path / "manifest.parquet").unlink()
    ran = vidgen("report", output.root, "--to", tmp_path / "report", "--videos", "none")
    assert (ran.status, ran.out) == (0, f"{tmp_path}/report/index.html: 3 of 3 rows, 2 posters, 0 videos\n")
    assert "id 'clip-01': its video is not there" in ran.err
    assert "if the manifest was moved, give --manifest" in ran.err


def test_report_of_two_outputs(vidgen: Vidgen, tmp_path: Path) -> None:
    a, b = put_two_outputs(tmp_path)
    ran = vidgen("report", a.root, b.root)
    index = f"{a.root}/report-with-two/index.html"
    assert (ran.status, ran.out) == (0, f"{index}: 8 of 8 rows, 12 posters, 12 videos\n")
    assert "id 'gone': B: its video is not there" in ran.err
    assert ran.err.endswith(f"next: open {index} in a browser\n")
    ran = vidgen("report", a.root, b.root, "--to", tmp_path / "report", "--rows", "2", "--videos", "none")
    assert (ran.status, ran.out.partition(",")[0]) == (0, f"{tmp_path}/report/index.html: 2 of 8 rows")


def test_what_is_no_output_is_no_target(vidgen: Vidgen, tmp_path: Path) -> None:
    output = put_output(tmp_path, videos=1, failures=0)
    ran = vidgen("report", output.root, tmp_path / "report")
    assert ran.status == 2
    assert f"{tmp_path}/report: is not the output of a run" in ran.err
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("arguments", [("--rows", "0"), ("--videos", "x"), ("--video-size", "x")])
def test_refused(vidgen: Vidgen, tmp_path: Path, arguments: tuple[str, str]) -> None:
    output = put_output(tmp_path, videos=1, failures=0)
    assert vidgen("report", output.root, *arguments).status == 2
    assert not output.exists("report")


def test_it_loads_neither_mindspore_nor_ray(tmp_path: Path) -> None:
    a, b = put_two_outputs(tmp_path)
    for outputs in ((a.root,), (a.root, b.root)):
        _, imported = run_apart("report", *outputs)
        assert imported == "[]"
