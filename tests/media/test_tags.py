"""Tags in the metadata of each format, read back with ffmpeg and Pillow."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageSequence

from vidgen_dist import media
from vidgen_dist.media import read_tags
from vidgen_dist.media.contact_sheet import read_frames
from vidgen_dist.provenance import provenance_tags

SUFFIXES = {"mp4": ".mp4", "gif": ".gif", "png": "", "npy": ".npy"}
FRAMES = np.random.default_rng(0).integers(0, 256, (3, 16, 24, 3), dtype=np.uint8)
ODD_IDS = [
    "a\nb\r\nc", "🎬", "a=b;c#d\\e", "x" * 1000, "🎬" * 1000, "a\0b", "\ud800", ' "q" ', "é", "[STREAM]",
    ";FFMETADATA1", "50%", "\\", "a\\\nb", "<a>&amp;</a>", "x" * 200_000,
]  # fmt: skip


def tags_of(row_id: str = "row-1", producer: str | None = "ACME & Söhne <机器>") -> dict[str, str]:
    return provenance_tags(
        id=row_id, model="THUDM/CogVideoX-2b", revision="1137dac", seed=7, fingerprint="ab" * 32,
        aigc_producer=producer,
    )  # fmt: skip


def write(folder: Path, format: str, tags: dict[str, str] | None) -> media.EncodedVideo:
    folder.mkdir(exist_ok=True)
    path = folder / f"clip{SUFFIXES[format]}"
    return media.write_video(FRAMES, path, format=format, fps=8, crf=18, tags=tags)


def label_of_xmp(packet: str | bytes) -> str:
    root = ElementTree.fromstring(packet)
    found = root.findall(".//{http://www.tc260.org.cn/ns/AIGC/1.0/}AIGC")
    assert len(found) == 1
    return found[0].text or ""


@pytest.mark.parametrize("format", ["mp4", "gif", "png"])
@pytest.mark.parametrize("producer", [None, "ACME & Söhne <机器>"])
def test_tags_are_read_back(format: str, producer: str | None, tmp_path: Path) -> None:
    tags = tags_of(producer=producer)
    assert read_tags(write(tmp_path, format, tags).path, format) == tags


@pytest.mark.parametrize("format", ["mp4", "gif", "png"])
@pytest.mark.parametrize("row_id", ODD_IDS, ids=lambda row_id: ascii(row_id)[:20])
def test_odd_ids_are_read_back(format: str, row_id: str, tmp_path: Path) -> None:
    found = read_tags(write(tmp_path, format, tags_of(row_id)).path, format)
    assert unquote(found["id"], errors="surrogatepass") == row_id
    number = json.loads(found["AIGC"])["ProduceID"]
    assert unquote(number, errors="surrogatepass").rpartition("/")[0] == row_id


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(), min_size=1, max_size=30))
def test_any_id_survives_ffmpeg(tmp_path: Path, row_id: str) -> None:
    found = read_tags(write(tmp_path, "mp4", tags_of(row_id)).path, "mp4")
    assert unquote(found["id"], errors="surrogatepass") == row_id


def test_every_frame_of_png_has_them(tmp_path: Path) -> None:
    video = write(tmp_path, "png", tags_of())
    files = list(video.path.iterdir())
    assert len(files) == len(FRAMES)
    for file in files:
        with Image.open(file) as image:
            assert tags_of().items() <= image.text.items()


def test_png_has_the_label_in_xmp(tmp_path: Path) -> None:
    with Image.open(write(tmp_path, "png", tags_of()).path / "000001.png") as image:
        assert label_of_xmp(image.info["xmp"]) == tags_of()["AIGC"]


def test_gif_has_the_label_in_xmp(tmp_path: Path) -> None:
    data = write(tmp_path, "gif", tags_of()).path.read_bytes()
    _, packet = data.split(b"!\xff\x0bXMP DataXMP")
    packet, _ = packet.split(b"\x01\xff\xfe")
    assert label_of_xmp(packet) == tags_of()["AIGC"]


@pytest.mark.parametrize("format", ["gif", "png"])
def test_without_a_producer_there_is_no_xmp(format: str, tmp_path: Path) -> None:
    video = write(tmp_path, format, tags_of(producer=None))
    files = [video.path] if format == "gif" else list(video.path.iterdir())
    assert all(b"xmp" not in file.read_bytes().lower() for file in files)


@pytest.mark.parametrize("format", media.FORMATS)
def test_tags_change_no_pixel(format: str, tmp_path: Path) -> None:
    plain, tagged = write(tmp_path / "a", format, None), write(tmp_path / "b", format, tags_of())
    assert np.array_equal(read_frames(plain.path, format), read_frames(tagged.path, format))
    # npy has no place for tags.
    assert (plain.sha256 == tagged.sha256) == (format == "npy")


def test_a_tagged_gif_plays_as_an_untagged_one(tmp_path: Path) -> None:
    def played(tags: dict[str, str] | None) -> list[tuple[int, bytes]]:
        with Image.open(write(tmp_path, "gif", tags).path) as image:
            assert image.info["loop"] == 0
            return [
                (frame.info["duration"], frame.convert("RGB").tobytes())
                for frame in ImageSequence.Iterator(image)
            ]

    # So long that a reader would lose its way in it, if it were not skipped as a whole.
    assert played(tags_of("🎬" * 1000)) == played(None)


@pytest.mark.parametrize("format", media.FORMATS)
def test_same_tags_same_bytes_in_whatever_order(format: str, tmp_path: Path) -> None:
    tags = tags_of()
    turned = dict(reversed(tags.items()))
    first, second = write(tmp_path / "a", format, tags), write(tmp_path / "b", format, turned)
    assert (first.sha256, first.bytes) == (second.sha256, second.bytes)
    if format != "npy":
        assert write(tmp_path / "b", format, {**tags, "seed": "8"}).sha256 != first.sha256


def test_mp4_tells_nothing_else(tmp_path: Path) -> None:
    data = write(tmp_path, "mp4", tags_of()).path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    for word in (b"Lav", b"x264", b"creation_time", str(tmp_path).encode(), b"vidgen-", b"ffmetadata"):
        assert word not in data


@pytest.mark.parametrize(
    "tags",
    [
        {"": "a"},
        {"a b": "c"},
        {"a=b": "c"},
        {"é": "c"},
        {"x" * 80: "c"},
        {"a": ""},
        {"a": "b\nc"},
        {"a": "\ud800"},
    ],
)
@pytest.mark.parametrize("format", media.FORMATS)
def test_tags_refused(format: str, tags: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tag .* is not allowed; allowed: "):
        write(tmp_path, format, tags)
    assert not list(tmp_path.iterdir())
