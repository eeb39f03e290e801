"""A report of a whole output: what it shows, where from, and what it does not touch."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import re
import shutil
import threading
from pathlib import Path
from typing import Any

import boto3
import pytest
from PIL import Image

from tests.maintenance.outputs import path_in_output
from tests.maintenance.report.outputs import (
    cards_of,
    failure,
    put_entries,
    put_output,
    put_run_file,
    read_pages,
    video,
)
from vidgen_dist.errors import Refused
from vidgen_dist.maintenance.report.previews import NO_ROOM, NO_VIDEO, OTHER_CONTENT
from vidgen_dist.maintenance.report.writing import Report, ReportPolicy, write_report
from vidgen_dist.storage.folder import Storage, open_storage


@pytest.fixture
def output(tmp_path: Path) -> Storage:
    return put_output(tmp_path, videos=6, failures=2)


def report_of(output: Storage, **values: Any) -> tuple[Report, Storage, dict[str, str]]:
    made = write_report(output.root, **values)
    place = open_storage(values.get("folder") or output.uri("report"))
    return made, place, read_pages(place)


def contents(place: Storage) -> dict[str, bytes]:
    return {path: place.read_bytes(path) for path in place.sizes()}


def test_a_report(output: Storage) -> None:
    made, place, pages = report_of(output)
    assert (made.rows, made.all_rows, made.posters, made.videos, made.notes) == (8, 8, 6, 6, [])
    assert made.index == place.uri("index.html")
    cards = cards_of(pages["index.html"])
    badges = [re.findall(r'badge-\w+"[^>]*>(\w+)', card) for card in cards]
    assert badges == [["failed"]] * 2 + [["black"]] * 2 + [[]] * 4
    for card in cards[2:]:
        (path,) = re.findall(r'href="(media/[0-9a-f]{32}\.mp4)"', card)
        (poster,) = re.findall(r'src="(media/[0-9a-f]{32}\.webp)"', card)
        (name,) = re.findall(r"<dt>id</dt><dd[^>]*><bdi>([^<]+)", card)
        assert place.read_bytes(path) == output.read_bytes(path_in_output(output, name))
        with Image.open(io.BytesIO(place.read_bytes(poster))) as image:
            assert (image.format, image.size) == ("WEBP", (16, 16))
    assert "a fox number 3" in cards[6]
    assert "ink.safetensors × 0.8" in pages["index.html"]
    assert "All 8 rows." in pages["index.html"]
    assert re.search(r"pending</dt><dd>1 ", pages["index.html"])
    assert "somebody" not in "".join(pages.values())


@pytest.mark.parametrize("format", ["gif", "png", "npy"])
def test_other_formats_become_videos_that_play(tmp_path: Path, format: str) -> None:
    output = put_output(tmp_path, videos=2, failures=0, format=format)
    made, place, _ = report_of(output)
    assert (made.posters, made.videos) == (2, 2)
    assert sorted(Path(path).suffix for path in place.list("media")) == [".mp4", ".mp4", ".webp", ".webp"]
    assert all(place.read_bytes(path)[4:8] == b"ftyp" for path in place.list("media") if path.endswith("mp4"))


def test_the_same_output_gives_the_same_bytes(output: Storage, tmp_path: Path) -> None:
    one, other = str(tmp_path / "one"), str(tmp_path / "other")
    write_report(output.root, one)
    write_report(output.root, other)
    assert contents(open_storage(one)) == contents(open_storage(other))
    before = {path: path.stat().st_mtime_ns for path in Path(one).rglob("*.*")}
    write_report(output.root, one)
    changed = {path.name for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert changed == {"index.html"}, "what is there is not made again"


def test_a_report_follows_its_output(output: Storage) -> None:
    _, place, before = report_of(output, policy=ReportPolicy(page_rows=3))
    assert sum(name.endswith(".html") for name in before) == 3
    put_entries(output, video(output, "bad-0", 9, fingerprint="f", attempt=2))
    _, _, pages = report_of(output)
    assert sum(name.endswith(".html") for name in pages) == 1
    assert len([path for path in place.list("media") if path.endswith(".mp4")]) == 7
    assert "a bad prompt" in "".join(cards_of(pages["index.html"])[1:])
    report_of(output, videos="none")
    assert {Path(path).suffix for path in place.list("media")} == {".webp"}


def test_videos_that_are_not_what_the_ledger_says(output: Storage) -> None:
    gone, other = (path_in_output(output, name) for name in ("clip-02", "clip-03"))
    output.delete(gone)
    output.write_bytes(other, output.read_bytes(path_in_output(output, "clip-04")))
    made, _, pages = report_of(output)
    assert made.notes == [("clip-02", NO_VIDEO), ("clip-03", OTHER_CONTENT)]
    assert (made.rows, made.posters) == (8, 4)
    assert NO_VIDEO in pages["index.html"]


def test_a_video_that_does_not_decode(tmp_path: Path) -> None:
    output = open_storage(str(tmp_path / "out"))
    put_run_file(output, "nowhere")
    entry = video(output, "a", 1)
    output.write_bytes(path_in_output(output, "a"), b"no video")
    digest = hashlib.sha256(b"no video").hexdigest()
    put_entries(output, dataclasses.replace(entry, sha256=digest, bytes=8))
    made, _, _ = report_of(output)
    ((name, note),) = made.notes
    assert (name, made.posters) == ("a", 0)
    assert "does not decode" in note


def test_room_for_videos(output: Storage) -> None:
    each = max(output.sizes("videos").values())
    made, _, pages = report_of(output, video_size=f"{each * 2.5 / 1000}kB")
    assert (made.posters, made.videos) == (6, 2)
    assert [note for _, note in made.notes] == [NO_ROOM] * 4
    # Those that went wrong come first.
    assert ['href="media/' in card for card in cards_of(pages["index.html"])][2:4] == [True, True]


def test_videos_of_the_output_may_be_referred_to(output: Storage, tmp_path: Path) -> None:
    _, place, pages = report_of(output, videos="link", folder=output.uri("for/others"))
    links = re.findall(r'href="(\.\./[^"]+\.mp4)"', pages["index.html"])
    assert len(links) == 6
    assert all(
        (Path(place.root) / link).resolve().is_relative_to(Path(output.root) / "videos") for link in links
    )
    assert all((Path(place.root) / link).is_file() for link in links)
    assert {Path(path).suffix for path in place.list("media")} == {".webp"}
    with pytest.raises(Refused, match="--videos link refers to the videos of the output"):
        write_report(output.root, str(tmp_path / "elsewhere"), videos="link")
    assert not (tmp_path / "elsewhere").exists()


def test_a_sample(tmp_path: Path) -> None:
    output = put_output(tmp_path, videos=20, failures=8)
    made, _, pages = report_of(output, rows=8)
    assert (made.rows, made.all_rows) == (8, 28)
    cards = cards_of(pages["index.html"])
    assert [("failed" in card, "black" in card) for card in cards] == (
        [(True, False)] * 3 + [(False, True)] * 3 + [(False, False)] * 2
    )  # fmt: skip
    text = "8 of 28 rows: 6 that failed or have a flag, and 2 others, chosen by chance."
    assert text in pages["index.html"]
    # The figures are those of all rows.
    assert re.search(r"videos</dt><dd>20 ", pages["index.html"])


def test_without_its_manifest(output: Storage, tmp_path: Path) -> None:
    (tmp_path / "manifest.parquet").rename(tmp_path / "moved.parquet")
    made, _, pages = report_of(output)
    assert "manifest.parquet" in made.why_no_prompts
    assert "a fox" not in pages["index.html"]
    assert "Prompts are not shown: the manifest could not be read." in pages["index.html"]
    assert "clip-03" in pages["index.html"]
    made, _, pages = report_of(output, manifest=str(tmp_path / "moved.parquet"))
    assert made.why_no_prompts == ""
    assert "a fox number 3" in pages["index.html"]
    with pytest.raises(Refused, match="nowhere"):
        write_report(output.root, manifest="nowhere.parquet")


def test_an_output_that_was_moved(output: Storage, tmp_path: Path) -> None:
    shutil.move(output.root, tmp_path / "moved")
    made = write_report(str(tmp_path / "moved"))
    assert made.videos == 6


def test_an_output_without_rows(tmp_path: Path) -> None:
    output = open_storage(str(tmp_path / "out"))
    put_run_file(output, "nowhere")
    made, _, pages = report_of(output)
    assert (made.rows, made.all_rows) == (0, 0)
    assert "The ledger has no rows yet." in pages["index.html"]
    put_entries(output, failure("a"))
    made, _, pages = report_of(output)
    assert (made.rows, made.posters) == (1, 0)
    assert "No video is done yet." in pages["index.html"]


@pytest.mark.parametrize("inside", ["ledger/report", "videos", "logs/x", "scratch"])
def test_folders_of_the_output_are_refused(output: Storage, inside: str) -> None:
    with pytest.raises(Refused, match=f"is in the output's {inside.partition('/')[0]}/"):
        write_report(output.root, output.uri(inside))


def test_what_is_refused_leaves_nothing(output: Storage, tmp_path: Path) -> None:
    place = str(tmp_path / "place")
    for values, message in (
        ({"videos": "some"}, "--videos: 'some' is not allowed; allowed: copy, link, none"),
        ({"video_size": "many"}, "--video-size"),
        ({"manifest": "nowhere"}, "nowhere"),
    ):
        with pytest.raises(Refused, match=message):
            write_report(output.root, place, **values)
    with pytest.raises(Refused, match="the Hub makes a commit for each file"):
        write_report(output.root, "hf://datasets/a/b")
    with pytest.raises(Refused, match="something else in it"):
        write_report(output.root, output.root)
    with pytest.raises(Refused, match="is not the output of a run"):
        write_report(str(tmp_path / "nothing"), place)
    assert not Path(place).exists()


def test_between_object_stores(tmp_path: Path, s3_bucket: str, s3_endpoint: str) -> None:
    local = put_output(tmp_path, videos=3, failures=1)
    output = open_storage(f"s3://{s3_bucket}/out")
    for path in local.list():
        output.put_file(Path(local.root, path), path)
    made, place, pages = report_of(output)
    assert (made.posters, made.videos, made.index) == (3, 3, f"s3://{s3_bucket}/out/report/index.html")
    assert "a fox number 0" in pages["index.html"]
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    for path in place.list():
        # A browser shows nothing of a page, style or script of another type.
        kind = client.head_object(Bucket=s3_bucket, Key=f"out/report/{path}")["ContentType"]
        assert kind.endswith(
            {"js": "javascript", "svg": "svg+xml"}.get(Path(path).suffix[1:], Path(path).suffix[1:])
        )
    client.close()
    write_report(output.root, str(tmp_path / "report"))
    there = contents(open_storage(str(tmp_path / "report")))
    assert {path.rpartition("-")[2] for path in there} == {path.rpartition("-")[2] for path in place.list()}


def test_progress(output: Storage) -> None:
    told: list[tuple[int, int]] = []
    thread = threading.current_thread()

    def tell(done: int, of: int) -> None:
        assert threading.current_thread() is thread
        told.append((done, of))

    write_report(output.root, progress=tell)
    assert told == [(done, 6) for done in range(1, 7)]
