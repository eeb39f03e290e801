"""Frames are written in each format and put into an output."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import unicodedata
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageSequence

from tests.media.clips import SUFFIXES, ffmpeg, psnr, smooth, write
from vidgen_dist import media
from vidgen_dist.media.contact_sheet import read_frames
from vidgen_dist.storage.folder import open_storage
from vidgen_dist.storage.names import safe_name


@given(st.lists(st.floats(0, 1, width=32), min_size=3, max_size=30))
def test_to_uint8_rounds_as_numpy_to_pil(values: list[float]) -> None:
    frames = np.resize(np.array(values, np.float32), (2, 2, len(values), 3))
    assert np.array_equal(media.to_uint8(frames), (frames * 255).round().astype("uint8"))


def test_to_uint8_clips_and_keeps_every_byte() -> None:
    ramp = (np.arange(256 * 3, dtype=np.float32) // 3 / 255).reshape(1, 1, 256, 3)
    assert media.to_uint8(ramp)[0, 0, :, 0].tolist() == list(range(256))
    assert media.to_uint8(np.array([-0.5, 0.5, 1.5]).reshape(1, 1, 1, 3)).tolist() == [[[[0, 128, 255]]]]


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((2, 2, 3)),
        np.zeros((1, 2, 2, 4)),
        np.zeros((1, 2, 2, 3), np.uint8),
        np.full((1, 1, 1, 3), np.nan),
        np.full((1, 1, 1, 3), np.inf),
        np.full((1, 1, 1, 3), -np.inf),
    ],
    ids=["3 axes", "4 channels", "bytes", "NaN", "infinite", "negative infinite"],
)
def test_to_uint8_refuses(frames: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"\(F, H, W, 3\) floating point|NaN or infinite"):
        media.to_uint8(frames)


@pytest.mark.parametrize("format", media.FORMATS)
@pytest.mark.parametrize("shape", [(1, 16, 16), (1, 1, 1), (5, 33, 47), (9, 48, 32)])
def test_written_and_read_back(format: str, shape: tuple[int, int, int], tmp_path: Path) -> None:
    frames = smooth(*shape)
    video = write(frames, tmp_path, format)
    back = read_frames(video.path, format)
    assert back.shape == (video.frames, video.height, video.width, 3)
    if format == "mp4":
        assert back.shape[1:3] == tuple(size + size % 2 for size in shape[1:])
        back = back[:, : shape[1], : shape[2]]
        assert psnr(back, frames) > 26
    elif format == "gif":
        assert back.shape == frames.shape
        assert psnr(back, frames) > 24
    else:
        assert np.array_equal(back, frames)


@pytest.mark.parametrize("format", media.FORMATS)
def test_same_frames_same_bytes(format: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 30, (12, 48, 64, 3), dtype=np.uint8)
    frames = smooth(12, 48, 64) // 2 + noise
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = write(frames, tmp_path / "a", format, fps=23.976)
    # Strides must not matter either.
    second = write(np.asfortranarray(frames), tmp_path / "b", format, fps=23.976)
    assert first == dataclasses.replace(second, path=first.path)
    frames = frames.copy()
    frames[7, 20:30, 20:30] ^= 255
    assert write(frames, tmp_path / "b", format, fps=23.976).sha256 != first.sha256


@pytest.mark.parametrize("format", ["mp4", "gif", "npy"])
def test_size_and_digest_are_the_files(format: str, tmp_path: Path) -> None:
    video = write(smooth(3, 16, 16), tmp_path, format)
    data = video.path.read_bytes()
    assert (video.bytes, video.sha256) == (len(data), hashlib.sha256(data).hexdigest())


def test_png_is_a_folder_and_replaces_one(tmp_path: Path) -> None:
    write(smooth(5, 8, 8), tmp_path, "png")
    video = write(smooth(3, 8, 8), tmp_path, "png")
    names = sorted(file.name for file in video.path.iterdir())
    assert names == ["000000.png", "000001.png", "000002.png"]
    data = b"".join((video.path / name).read_bytes() for name in names)
    assert (video.bytes, video.sha256) == (len(data), hashlib.sha256(data).hexdigest())


def test_mp4_is_h264_yuv420p_with_its_index_in_front_and_unsigned(tmp_path: Path) -> None:
    video = write(smooth(4, 32, 32), tmp_path, "mp4", fps=24000 / 1001)
    described = ffmpeg("-i", str(video.path))
    assert "h264" in described
    assert "yuv420p(tv, smpte170m/bt709/bt709" in described
    assert "23.98 fps" in described
    assert "creation_time" not in described
    data = video.path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    assert b"x264" not in data
    assert b"Lav" not in data


@pytest.mark.parametrize("fps", [0.01, 0.5, 8, 23.976, 30000 / 1001, 120, 1000])
def test_mp4_lasts_frames_over_fps(fps: float, tmp_path: Path) -> None:
    video = write(smooth(6, 16, 16), tmp_path, "mp4", fps=fps)
    count, seconds = imageio_ffmpeg.count_frames_and_secs(video.path)
    assert count == 6
    assert seconds == pytest.approx(6 / fps, abs=0.02)
    assert video.fps == fps


def test_mp4_pads_by_repeating_the_edge(tmp_path: Path) -> None:
    frames = smooth(2, 15, 17)
    odd = write(frames, tmp_path, "mp4").sha256
    padded = np.concatenate([frames, frames[:, -1:]], axis=1)
    padded = np.concatenate([padded, padded[:, :, -1:]], axis=2)
    even = write(padded, tmp_path, "mp4")
    assert (even.width, even.height) == (18, 16)
    assert odd == even.sha256


def test_crf_trades_size_for_quality(tmp_path: Path) -> None:
    frames = smooth(9, 64, 64)
    sizes, qualities = [], []
    for crf in (10, 40):
        video = write(frames, tmp_path, "mp4", crf=crf)
        sizes.append(video.bytes)
        qualities.append(psnr(read_frames(video.path, "mp4"), frames))
    assert sizes[0] > sizes[1]
    assert qualities[0] > qualities[1]


def durations(path: Path) -> list[int]:
    with Image.open(path) as image:
        return [frame.info["duration"] for frame in ImageSequence.Iterator(image)]


@pytest.mark.parametrize(
    ("fps", "expected"),
    [
        (10, [100, 100, 100, 100, 100, 100]),
        (8, [120, 130, 130, 120, 120, 130]),
        (30, [30, 40, 30, 30, 40, 30]),
        (50, [20, 20, 20, 20, 20, 20]),
        (120, [20, 20, 20, 20, 20, 20]),
        (0.01, [100_000] * 6),
    ],
)
def test_gif_durations_add_up(fps: float, expected: list[int], tmp_path: Path) -> None:
    video = write(smooth(6, 16, 16), tmp_path, "gif", fps=fps)
    assert durations(video.path) == expected
    assert video.fps == min(fps, 50)


def test_gif_loops_and_keeps_equal_frames(tmp_path: Path) -> None:
    frames = np.repeat(smooth(2, 16, 16), 3, axis=0)
    video = write(frames, tmp_path, "gif", fps=10)
    with Image.open(video.path) as image:
        assert image.info["loop"] == 0
        assert image.n_frames == 6
    back = read_frames(video.path, "gif")
    assert np.array_equal(back[0], back[2])
    assert not np.array_equal(back[2], back[3])
    assert durations(video.path) == [100] * 6


def test_gif_frames_change_only_where_they_do(tmp_path: Path) -> None:
    frames = np.zeros((4, 20, 20, 3), np.uint8)
    for index in range(4):
        frames[index, 3 * index : 3 * index + 4, 5:9] = (250, 20, 60)
    video = write(frames, tmp_path, "gif")
    assert np.array_equal(read_frames(video.path, "gif"), frames)


@pytest.mark.parametrize(
    ("change", "allowed"),
    [
        ({"format": "webm"}, "mp4, gif, png, npy"),
        ({"fps": 0}, "0.01 to 1000"),
        ({"fps": float("nan")}, "0.01 to 1000"),
        ({"crf": 52}, "0 to 51"),
    ],
)
def test_arguments_refused(change: dict, allowed: str, tmp_path: Path) -> None:
    arguments = {"format": "mp4", "fps": 8, "crf": 18} | change
    with pytest.raises(ValueError, match=allowed):
        media.write_video(smooth(1, 8, 8), tmp_path / "clip", **arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("frames", [np.zeros((0, 8, 8, 3), np.uint8), np.zeros((1, 8, 8, 3), np.float32)])
def test_frames_refused(frames: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\(F, H, W, 3\) uint8"):
        write(frames, tmp_path, "mp4")


def test_what_ffmpeg_said_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="No such file or directory"):
        media.write_video(smooth(1, 8, 8), tmp_path / "none" / "x.mp4", format="mp4", fps=8, crf=18)


@pytest.mark.parametrize("format", media.FORMATS)
def test_nothing_is_left_of_a_failed_write(
    format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "save", full)
    monkeypatch.setattr(Image.Image, "save", full)
    monkeypatch.setattr(media.encoding.GifImagePlugin, "getdata", full)
    monkeypatch.setattr(media.encoding.subprocess, "run", full)
    with pytest.raises(OSError, match="No space left"):
        write(smooth(2, 8, 8), tmp_path, format)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", ["mp4", "gif", "npy"])
def test_a_full_disk_is_called_so(format: str, tmp_path: Path) -> None:
    path = tmp_path / f"video.{format}"
    path.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device") as caught:
        media.write_video(smooth(2, 8, 8), path, format=format, fps=8, crf=18)
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize("format", ["mp4", "gif", "npy"])
def test_commit_puts_and_replaces_a_file(format: str, tmp_path: Path) -> None:
    output = open_storage(tmp_path / "out")
    first = write(smooth(2, 8, 8), tmp_path, format)
    uri = media.commit_video(output, first, "row-1")
    folder = hashlib.sha256(b"row-1").hexdigest()[:2]
    assert uri == f"{tmp_path}/out/videos/{folder}/row-1{SUFFIXES[format]}"
    assert Path(uri).read_bytes() == first.path.read_bytes()
    again = write(smooth(3, 8, 8), tmp_path, format)
    assert media.commit_video(output, again, "row-1") == uri
    assert Path(uri).read_bytes() == again.path.read_bytes()
    assert len(output.list()) == 1


def test_commit_of_frames_never_mixes_two_renderings(tmp_path: Path) -> None:
    output = open_storage(tmp_path / "out")
    long = smooth(5, 8, 8)
    uri = media.commit_video(output, write(long, tmp_path, "png"), "row.1")
    assert Path(uri).parent.name == "row.1"
    short = smooth(2, 8, 8) // 2
    other = media.commit_video(output, write(short, tmp_path, "png"), "row.1")
    assert np.array_equal(read_frames(uri, "png"), long)
    assert np.array_equal(read_frames(other, "png"), short)


# Ids that a case-insensitive storage, a normalising one or a careless join would take for one another.
odd_ids = (
    st.text(max_size=30) | st.text("aAbB./\\-_:% \n", max_size=8) | st.text("éÉe\u0301ßſsSKK🎬", max_size=4)
)


@pytest.mark.parametrize("format", ["npy", "png"])
@settings(max_examples=30)
@given(row_ids=st.lists(odd_ids, min_size=2, max_size=8, unique=True))
def test_no_two_rows_share_a_file_and_none_leaves_the_folder(
    format: str, row_ids: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("commit")
    output = open_storage(folder / "out")
    video = write(smooth(1, 2, 2), folder, format)
    uris = [media.commit_video(output, video, safe_name(row_id)) for row_id in row_ids]
    seen = [unicodedata.normalize("NFKC", uri).casefold() for uri in uris]
    assert len(set(seen)) == len(row_ids)
    videos = (folder / "out" / "videos").resolve()
    for uri in uris:
        assert videos in Path(uri).resolve().parents
        assert max(len(part.encode()) for part in Path(uri).parts) <= 255
        # The file of one id is not the folder of another.
        assert not any(other.startswith(f"{uri}/") for other in uris)
    assert all(videos in file.parents for file in folder.rglob("*") if file.is_file() and "out" in file.parts)


@pytest.mark.parametrize("format", ["mp4", "png"])
def test_commit_to_s3(format: str, tmp_path: Path, s3_bucket: str) -> None:
    output = open_storage(f"s3://{s3_bucket}/run")
    video = write(smooth(3, 16, 16), tmp_path, format)
    uri = media.commit_video(output, video, "row")
    assert uri.startswith(f"s3://{s3_bucket}/run/videos/")
    files = output.list("videos")
    data = b"".join(output.read_bytes(file) for file in files)
    assert len(data) == video.bytes
    assert hashlib.sha256(data).hexdigest() == video.sha256
