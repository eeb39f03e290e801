"""A report of two outputs: which rows it shows side by side, and what it says of them."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.maintenance.outputs import path_in_output
from tests.maintenance.report.outputs import put_entries, put_two_outputs, read_pages, video
from vidgen_dist.errors import Refused
from vidgen_dist.maintenance.comparison import Comparison, compare_outputs
from vidgen_dist.maintenance.report.previews import NO_ROOM, NO_VIDEO
from vidgen_dist.maintenance.report.writing import Report, ReportPolicy
from vidgen_dist.maintenance.report.writing_pairs import write_pair_report
from vidgen_dist.storage.folder import Storage, open_storage

TWO = tuple[Storage, Storage]
Made = tuple[Report, Storage, dict[str, str]]


@pytest.fixture
def two(tmp_path: Path) -> TWO:
    return put_two_outputs(tmp_path)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> TWO:
    """Outputs that no test changes."""
    return put_two_outputs(tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def made(shared: TWO) -> Made:
    """Their report, in the first one's folder; no test changes it."""
    return report_of(shared)


@pytest.fixture(scope="module")
def found(shared: TWO) -> Comparison:
    return compare_outputs(shared[0].root, shared[1].root)


def report_of(two: TWO, **values: Any) -> Made:
    made = write_pair_report(two[0].root, two[1].root, **values)
    place = open_storage(made.index.removesuffix("/index.html"))
    return made, place, read_pages(place)


def pairs_of(pages: dict[str, str]) -> dict[str, str]:
    """Id -> markup, in the order of the pages."""
    html = [
        pages["index.html"],
        *(text for name, text in sorted(pages.items()) if name.startswith("pages/0")),
    ]
    text = "".join(part for part in html if part.startswith("<!doctype"))
    pairs = re.findall(r'<article class="pair".*?</article>', text, re.DOTALL)
    return {re.findall(r"<dt>id</dt><dd[^>]*><bdi>([^<]+)", pair)[0]: pair for pair in pairs}


def badge(pair: str) -> str:
    return re.findall(r'badge-\w+"[^>]*>([^<]+)', pair)[0]


def test_a_report_of_two_outputs(made: Made, shared: TWO) -> None:
    report, place, pages = made
    assert (report.rows, report.all_rows, report.posters, report.videos) == (8, 8, 12, 12)
    assert report.index == shared[0].uri("report-with-two/index.html")
    assert report.notes == [("gone", f"B: {NO_VIDEO}")]
    pairs = pairs_of(pages)
    assert {name: badge(pair) for name, pair in pairs.items()} == {
        "far": "differs",
        "near": "differs",
        "gone": "unreadable",
        "length": "shapes differ",
        "failed": "not done",
        "only-a": "only in A",
        "only-b": "only in B",
        "same": "identical: same bytes",
    }
    assert list(pairs)[:2] == ["far", "near"], "the worst comes first"
    assert list(pairs)[-1] == "same"
    assert "8 frames of 48x32 and 4 frames of 48x32" in pairs["length"]
    assert "B: failed" in pairs["failed"]
    assert "NumericalError" in pairs["failed"]
    assert "not in B" in pairs["only-a"]
    assert "not in A" in pairs["only-b"]
    assert len(re.findall("data-play", "".join(pairs.values()))) == 4
    assert {Path(path).suffix for path in place.list("media")} == {".mp4", ".webp"}


def test_figures_are_those_of_the_comparison(made: Made, found: Comparison) -> None:
    _, _, pages = made
    pairs = pairs_of(pages)
    for row in found.different.to_pylist():
        pair = pairs[row["id"]]
        assert f"<dt>PSNR</dt><dd>{row['psnr']:.2f} dB</dd>" in pair
        assert f"<dt>SSIM</dt><dd>{row['ssim']:.4f}</dd>" in pair
        assert f"<dd>{row['first_different_frame']} of 0 to 7</dd>" in pair
    summary = found.summary()
    assert f"<dt>PSNR in all</dt><dd>{summary['psnr']:.2f} dB " in pages["index.html"]
    assert f"<dt>SSIM in all</dt><dd>{summary['ssim']:.4f} " in pages["index.html"]
    for name, count in (("identical", 1), ("differs", 2), ("not comparable", 3), ("only in one", 2)):
        assert f"<dt>{name}</dt><dd>{count} " in pages["index.html"]
    assert "2 rows; the median is about" in pages["index.html"]


def test_what_differs_is_said(made: Made) -> None:
    _, _, pages = made
    rows = {
        name: re.findall(r'<th scope="row">([^<]+)</th><td[^>]*>([^<]*)</td><td[^>]*>([^<]*)</td>', text)
        for name, text in {
            **pairs_of(pages),
            "runs": pages["index.html"].partition('id="gallery"')[0],
        }.items()
    }
    assert ("model.dtype", "bfloat16", "float32") in rows["runs"]
    assert [row for row in rows["runs"] if row[0].startswith(("output.uri", "manifest"))] == []
    assert rows["far"] == [("seed", "7", "8"), ("LoRA", "–", "ink.safetensors × 0.8")]
    assert rows["near"] == rows["only-a"] == []
    assert [row[0] for row in rows["length"]] == ["length"]
    assert "somebody" not in "".join(pages.values())


def test_the_difference_of_the_worst_frame(
    made: Made, shared: TWO, found: Comparison, tmp_path: Path
) -> None:
    _, place, pages = made
    pairs = pairs_of(pages)
    worst = {row["id"]: row["worst_frame"] for row in found.different.to_pylist()}
    means = {}
    for name in ("far", "near"):
        assert f"difference × 8, frame {worst[name]}<" in pairs[name]
        path = re.findall(r'src="(media/[0-9a-f]{32}\.webp)" alt="The difference', pairs[name])[0]
        with Image.open(io.BytesIO(place.read_bytes(path))) as image:
            assert image.size == (48, 32)
            means[name] = float(np.asarray(image).mean())
    assert means["far"] > 150 > 60 > means["near"] > 0
    assert [name for name, pair in pairs.items() if "difference ×" in pair] == ["far", "near"]
    _, _, pages = report_of(shared, folder=str(tmp_path / "report"), policy=ReportPolicy(differences=1))
    assert [name for name, pair in pairs_of(pages).items() if "difference ×" in pair] == ["far"]


def test_the_same_outputs_give_the_same_bytes(shared: TWO, tmp_path: Path) -> None:
    one, other = (open_storage(str(tmp_path / name)) for name in ("r1", "r2"))
    for place in (one, other):
        report_of(shared, folder=place.root)
    assert {path: one.read_bytes(path) for path in one.sizes()} == {
        path: other.read_bytes(path) for path in other.sizes()
    }
    before = {path: path.stat().st_mtime_ns for path in Path(one.root).rglob("*.*")}
    report_of(shared, folder=one.root)
    assert {p.name for p, time in before.items() if p.stat().st_mtime_ns != time} == {"index.html"}


def test_a_torn_video_gives_the_same_bytes_too(two: TWO, tmp_path: Path) -> None:
    torn = video(two[1], "near", 3)
    two[1].write_bytes(path_in_output(two[1], "near"), b"no video")
    digest = hashlib.sha256(b"no video").hexdigest()
    put_entries(two[1], dataclasses.replace(torn, sha256=digest, bytes=8))
    one, other = (report_of(two, folder=str(tmp_path / name))[2] for name in ("r1", "r2"))
    assert one == other
    assert "does not decode" in pairs_of(one)["near"]
    assert "vidgen-" not in pairs_of(one)["near"]


def test_a_report_follows_its_outputs(two: TWO) -> None:
    _, place, before = report_of(two, policy=ReportPolicy(page_rows=6))
    assert sum(name.endswith(".html") for name in before) == 3
    assert len(pairs_of(before)) == 8
    put_entries(two[1], video(two[1], "only-a", 3))
    made, _, pages = report_of(two, videos="none")
    assert (made.rows, made.videos) == (8, 0)
    assert badge(pairs_of(pages)["only-a"]) == "shapes differ"
    assert {Path(path).suffix for path in place.list("media")} == {".webp"}


def test_rows_and_room(shared: TWO, tmp_path: Path) -> None:
    made, _, pages = report_of(shared, folder=str(tmp_path / "few"), rows=3, videos="none")
    assert (made.rows, made.all_rows) == (3, 8)
    assert "3 of 8 rows, chosen by chance." in pages["index.html"]
    size = sum(output.sizes("videos")[path_in_output(output, "far")] for output in shared)
    _, _, pages = report_of(shared, folder=str(tmp_path / "small"), video_size=f"{size / 1000}kB")
    pairs = pairs_of(pages)
    assert pairs["far"].count("data-video") == 2
    assert pairs["near"].count("data-video") == 0
    assert NO_ROOM in pairs["near"]


def test_without_a_manifest(two: TWO, tmp_path: Path) -> None:
    (tmp_path / "manifest.parquet").rename(tmp_path / "moved.parquet")
    made, _, pages = report_of(two)
    assert "manifest.parquet" in made.why_no_prompts
    assert "Prompts of A and B are not shown" in pages["index.html"]
    made, _, pages = report_of(two, manifest=str(tmp_path / "moved.parquet"))
    assert made.why_no_prompts == ""
    assert "a fox, far" in pairs_of(pages)["far"]


def test_what_is_refused_leaves_nothing(two: TWO, tmp_path: Path) -> None:
    a, b = (output.root for output in two)
    place = tmp_path / "place"
    for values, message in (
        ({"videos": "link"}, "--videos: 'link' is not allowed for two outputs"),
        ({"videos": "some"}, "--videos: 'some' is not allowed for two outputs; allowed: copy, none"),
        ({"video_size": "many"}, "--video-size"),
        ({"manifest": "nowhere"}, "nowhere"),
    ):
        with pytest.raises(Refused, match=message):
            write_pair_report(a, b, str(place), **values)  # type: ignore[arg-type]
    with pytest.raises(Refused, match="A and B are the same output"):
        write_pair_report(a, a, str(place))
    with pytest.raises(Refused, match="is not the output of a run"):
        write_pair_report(a, str(tmp_path / "nothing"), str(place))
    with pytest.raises(Refused, match="is in the output's videos/"):
        write_pair_report(a, b, two[1].uri("videos/report"))
    with pytest.raises(Refused, match="something else in it"):
        write_pair_report(a, b, b)
    assert not place.exists()


def test_progress(shared: TWO, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    report_of(shared, folder=str(tmp_path), videos="none", progress=lambda *numbers: told.append(numbers))
    assert told == [(done, 16) for done in range(1, 17)]
