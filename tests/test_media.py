"""Frames to files and back, sources of images and clips."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import io
import subprocess
import unicodedata
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageSequence

from vidgen_dist import media
from vidgen_dist.errors import Refused
from vidgen_dist.media import MediaError
from vidgen_dist.media.contact_sheet import read_frames
from vidgen_dist.storage.faults import StorageError
from vidgen_dist.storage.folder import open_storage
from vidgen_dist.storage.names import safe_name

SUFFIXES = {"mp4": ".mp4", "gif": ".gif", "png": "", "npy": ".npy"}


def smooth(count: int, height: int, width: int) -> np.ndarray:
    """A clip that codecs render well: slow waves of colour that move."""
    t, y, x = np.meshgrid(
        np.arange(count), np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij"
    )
    red, green, blue = (np.sin(6 * x + t / 5) + 1) / 2, (np.cos(5 * y + t / 7) + 1) / 2, x * y
    return (np.stack([red, green, blue], axis=-1) * 255).round().astype(np.uint8)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = np.mean((a.astype(np.float64) - b) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def write(frames: np.ndarray, folder: Path, format: str, fps: float = 8, crf: int = 18) -> media.EncodedVideo:
    return media.write_video(frames, folder / f"clip{SUFFIXES[format]}", format=format, fps=fps, crf=crf)


def ffmpeg(*arguments: str) -> str:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-y", *arguments]
    return subprocess.run(command, capture_output=True, check=False).stderr.decode()


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(smooth(1, 40, 60)[0])


@pytest.mark.parametrize(
    "read",
    [
        media.read_video,
        lambda path: media.read_tags(path, "mp4"),
        lambda path: media.count_frames(path, "mp4"),
    ],
)
def test_a_decoder_that_is_killed_says_nothing_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], object]
) -> None:
    """A storage's fault is told likewise, and is tried again; a broken file is given up."""
    video = write(smooth(2, 16, 16), tmp_path, "mp4").path
    decoder = tmp_path / "ffmpeg"
    decoder.write_text("#!/bin/sh\nkill -9 $$\n")
    decoder.chmod(0o700)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(decoder))
    with pytest.raises(ChildProcessError, match=r"killed by signal 9 while it read .*clip\.mp4"):
        read(video)


# --- to_uint8 ----------------------------------------------------------------------------------------


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


# --- write_video -------------------------------------------------------------------------------------


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
    monkeypatch.setattr(media.writing.GifImagePlugin, "getdata", full)
    monkeypatch.setattr(media.writing.subprocess, "run", full)
    with pytest.raises(OSError, match="No space left"):
        write(smooth(2, 8, 8), tmp_path, format)
    assert list(tmp_path.iterdir()) == []


# --- commit_video ------------------------------------------------------------------------------------


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
        # A file of one is no folder of another.
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


# --- read_image --------------------------------------------------------------------------------------


def test_an_image_from_every_kind_of_source(picture: Image.Image, tmp_path: Path) -> None:
    data = encoded(picture)
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    sources = [
        path, str(path), path.as_uri(), data, bytearray(data), picture,
        {"bytes": data, "path": None}, {"bytes": data, "path": "gone"}, {"bytes": None, "path": str(path)},
    ]  # fmt: skip
    for source in sources:
        image = media.read_image(source)
        assert image.mode == "RGB"
        assert np.array_equal(np.asarray(image), np.asarray(picture))


def test_image_and_clip_from_s3(picture: Image.Image, tmp_path: Path, s3_bucket: str) -> None:
    storage = open_storage(f"s3://{s3_bucket}/in")
    storage.write_bytes("picture.png", encoded(picture))
    assert np.array_equal(np.asarray(media.read_image(storage.uri("picture.png"))), np.asarray(picture))
    video = write(smooth(5, 16, 16), tmp_path, "mp4")
    storage.put_file(video.path, "clip.mp4")
    assert len(media.read_video(storage.uri("clip.mp4"))) == 5
    assert media.media_digest(storage.uri("clip.mp4")) == video.sha256
    with pytest.raises(MediaError, match=f"s3://{s3_bucket}/in/none.png: .*there is no such file"):
        media.read_image(storage.uri("none.png"))


def test_a_storage_that_fails_is_no_bad_image(monkeypatch: pytest.MonkeyPatch) -> None:
    class SlowDown(Exception):
        pass

    class Broken(io.BytesIO):
        def read(self, *_: object) -> bytes:
            raise SlowDown("https://bucket/key?X-Amz-Signature=secret")

    def refuse(_: str) -> io.BytesIO:
        raise StorageError("s3://bucket/key: 503")

    monkeypatch.setattr(media.reading, "open_input", refuse)
    with pytest.raises(StorageError, match="503"):
        media.read_image("s3://bucket/key")
    monkeypatch.setattr(media.reading, "open_input", lambda _: Broken())
    for read in (media.read_image, media.read_video, media.media_digest):
        with pytest.raises(StorageError, match=r"^cannot read s3://bucket/key: SlowDown$"):
            read("s3://bucket/key")


def test_exif_turns_and_alpha_goes(picture: Image.Image) -> None:
    exif = Image.Exif()
    exif[274] = 6
    turned = media.read_image(encoded(picture, exif=exif.tobytes()))
    assert turned.size == (picture.height, picture.width)
    assert np.array_equal(np.asarray(turned), np.rot90(np.asarray(picture), -1))
    transparent = picture.copy()
    transparent.putalpha(0)
    assert np.array_equal(np.asarray(media.read_image(encoded(transparent))), np.asarray(picture))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "RGBA"])
def test_every_mode_becomes_rgb(mode: str, picture: Image.Image) -> None:
    data = encoded(picture.convert(mode), "TIFF" if mode == "CMYK" else "PNG")
    assert media.read_image(data).mode == "RGB"


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "GIF", "BMP", "PPM", "TIFF"])
def test_formats_in(format: str, picture: Image.Image) -> None:
    assert psnr(np.asarray(media.read_image(encoded(picture, format))), np.asarray(picture)) > 22


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n%%EOF\n"


def test_bytes_that_are_no_image(picture: Image.Image) -> None:
    data = encoded(picture)
    broken = data[: len(data) * 2 // 3]
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 255
    for source in (b"", b"not an image", broken, bytes(flipped), data[:30], EPS):
        with pytest.raises(
            MediaError, match=f"^{len(source)} bytes: does not decode as an image .*allowed: JPEG"
        ):
            media.read_image(source)


def test_a_bomb_is_not_opened() -> None:
    header = bytearray(encoded(Image.new("L", (1, 1))))
    header[16:24] = (20_000).to_bytes(4, "big") + (8_000).to_bytes(4, "big")
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    with pytest.warns(Image.DecompressionBombWarning), pytest.raises(MediaError, match="20000x8000 pixels"):
        media.read_image(bytes(header))


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_deep_greys_are_not_cut_to_white(kind: type) -> None:
    deep = Image.fromarray(np.full((8, 8), 30_000, kind))
    with pytest.raises(MediaError, match="more than 8 bits"):
        media.read_image(deep)


def test_the_same_bad_image_gives_the_same_message() -> None:
    said = []
    for data in (b"<html>", b"<html>"):
        with pytest.raises(MediaError) as caught:
            media.read_image(data)
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert "cannot identify image file)" in said[0]


def test_a_huge_file_is_no_image(picture: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media.reading, "MAX_IMAGE_BYTES", 100)
    with pytest.raises(MediaError, match="allowed: up to 100 bytes"):
        media.read_image(encoded(picture))


@pytest.mark.parametrize("read", [media.read_image, media.read_video, media.media_digest])
def test_sources_that_cannot_be_opened(read: object, tmp_path: Path) -> None:
    cases = {
        str(tmp_path / "none"): "none: No such file",
        str(tmp_path): "Is a directory",
        "x" * 5000: r"x{57}: cannot be opened",
        "a\0b": "cannot be opened",
        "": "cannot be opened",
        "nowhere://x/y": "nowhere://x/y: cannot be opened",
        "s3://key:secret@bucket/x": "s3://bucket/x: cannot be opened",
        5: "int is not allowed; allowed: a path, a URI",
    }
    for source, message in cases.items():
        with pytest.raises(MediaError, match=message) as caught:
            read(source)  # type: ignore[operator]
        assert "secret" not in str(caught.value)
        assert len(str(caught.value)) < 1000
        assert not isinstance(caught.value, Refused)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_images_decode_or_are_refused(data: st.DataObject, picture: Image.Image) -> None:
    damaged = bytearray(
        encoded(picture, data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"])))
    )
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    # Anything but a MediaError fails the test.
    with suppress(MediaError):
        assert media.read_image(bytes(damaged)).mode == "RGB"


# --- read_video --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same second of video, with sound, in containers of all sorts; one with a rotated picture."""
    folder = tmp_path_factory.mktemp("containers")
    codecs = {
        "webm": ["-c:v", "libvpx-vp9", "-c:a", "libopus"],
        "mkv": ["-c:v", "libx265", "-x265-params", "log-level=none"],
        "avi": ["-c:v", "mpeg4"],
        "mov": ["-c:v", "prores"],
        "ts": ["-c:v", "libx264"],
    }
    files = {}
    for suffix, options in codecs.items():
        files[suffix] = folder / f"clip.{suffix}"
        pictures = ["-f", "lavfi", "-i", "testsrc=size=64x48:rate=25:duration=1"]
        sound = ["-f", "lavfi", "-i", "sine=duration=1"]
        ffmpeg("-loglevel", "error", *pictures, *sound, *options, str(files[suffix]))
    files["mp4"] = folder / "clip.mp4"
    ffmpeg("-display_rotation", "90", "-i", str(files["ts"]), "-c", "copy", str(files["mp4"]))
    return files


@pytest.mark.parametrize("container", ["webm", "mkv", "avi", "mov", "ts", "mp4"])
def test_clips_are_read_as_imageio_does(container: str, containers: dict[str, Path]) -> None:
    path = containers[container]
    reader = imageio_ffmpeg.read_frames(path)
    width, height = next(reader)["size"]
    expected = [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]
    frames = media.read_video(path)
    assert len(frames) >= 25
    assert frames[0].size == ((48, 64) if container == "mp4" else (64, 48))
    assert np.array_equal(np.stack([np.asarray(frame) for frame in frames]), np.stack(expected))
    assert [f.tobytes() for f in media.read_video(path.read_bytes())] == [f.tobytes() for f in frames]


def test_names_that_mean_something_to_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write(smooth(3, 16, 16), tmp_path, "mp4").path.read_bytes()
    monkeypatch.chdir(tmp_path)
    for name in ("-i.mp4", "pipe:0", "%03d.mp4", "a b'.mp4", "http:"):
        Path(name).write_bytes(data)
        assert len(media.read_video(name)) == 3
        assert media.write_video(smooth(3, 16, 16), name, format="mp4", fps=8, crf=18).bytes == len(data)


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP"])
def test_animations_give_each_frame_once(format: str) -> None:
    frames = [Image.fromarray(frame) for frame in smooth(4, 24, 24)]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(
        frames[0], format, save_all=True, append_images=frames[1:], duration=[50, 500, 100, 20], **options
    )
    back = media.read_video(data)
    assert [frame.mode for frame in back] == ["RGB"] * 4
    assert psnr(np.stack([np.asarray(f) for f in back]), smooth(4, 24, 24)) > 22


def test_a_sequence_of_images(picture: Image.Image) -> None:
    frames = media.read_video([picture, picture.convert("RGBA"), encoded(picture)])
    assert [np.array_equal(np.asarray(frame), np.asarray(picture)) for frame in frames] == [True] * 3
    with pytest.raises(MediaError, match="sequence of 0 images: no frames"):
        media.read_video([])
    with pytest.raises(MediaError, match="frame 1 is 10x10; allowed: 60x40 as frame 0"):
        media.read_video([picture, picture.resize((10, 10))])
    with pytest.raises(MediaError, match="int is not allowed"):
        media.read_video([picture, 3])


def test_broken_clips(containers: dict[str, Path], tmp_path: Path) -> None:
    mp4 = write(smooth(20, 48, 48), tmp_path, "mp4").path.read_bytes()
    gif = write(smooth(4, 16, 16), tmp_path, "gif").path.read_bytes()
    webm, mov = containers["webm"].read_bytes(), containers["mov"].read_bytes()
    sound = tmp_path / "sound.wav"
    ffmpeg("-f", "lavfi", "-i", "sine=duration=1", str(sound))
    halves = [data[: len(data) // 2] for data in (mp4, webm, mov, gif)]
    for source in (b"", b"no video", mp4[:-1], *halves, sound.read_bytes()):
        with pytest.raises(MediaError, match=f"^{len(source)} bytes: .*does not decode"):
            media.read_video(source)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(halves[0])
    with pytest.raises(MediaError, match=f"^{broken}: does not decode as a clip .*allowed: any container"):
        media.read_video(broken)


def test_a_playlist_reaches_no_host(tmp_path: Path, s3_endpoint: str) -> None:
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{s3_endpoint}/a.ts\n#EXT-X-ENDLIST\n"
    (tmp_path / "clip.m3u8").write_text(playlist)
    with pytest.raises(MediaError, match=r"not on whitelist|not allowed|Invalid"):
        media.read_video(tmp_path / "clip.m3u8")


def test_a_clip_too_long_is_given_up(
    containers: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gif = write(smooth(10, 48, 64), tmp_path, "gif").path
    monkeypatch.setattr(media.reading, "MAX_CLIP_PIXELS", 9 * 64 * 48)
    for path in (gif, containers["webm"]):
        with pytest.raises(MediaError, match="more than 9 frames of 64x48"):
            media.read_video(path)


def test_temporary_copies_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write(smooth(2, 16, 16), tmp_path, "mp4").path.read_bytes()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(media.reading.tempfile, "tempdir", str(scratch))
    media.read_video(data)
    with pytest.raises(MediaError):
        media.read_video(data[:-100])
    assert list(scratch.iterdir()) == []


# --- media_digest ------------------------------------------------------------------------------------


def test_digest_is_of_the_bytes_wherever_they_lie(picture: Image.Image, tmp_path: Path) -> None:
    data = encoded(picture)
    (tmp_path / "a.png").write_bytes(data)
    expected = hashlib.sha256(data).hexdigest()
    for source in (
        data,
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        {"bytes": data},
        {"path": str(tmp_path / "a.png")},
    ):
        assert media.media_digest(source) == expected


def test_digest_of_pixels_and_sequences(picture: Image.Image) -> None:
    other = picture.copy()
    other.putpixel((3, 3), (1, 2, 3))
    recoloured = picture.convert("P")
    recoloured.putpalette(bytes(range(256)) * 3)
    turned = picture.copy()
    turned.getexif()[274] = 3
    sources = [
        picture, other, picture.convert("RGBA"), picture.convert("P"), recoloured, turned,
        Image.frombytes("RGB", (30, 80), picture.tobytes()),
        [picture], [picture, other], [other, picture], [picture, other, other],
    ]  # fmt: skip
    digests = [media.media_digest(source) for source in sources]
    assert len(set(digests)) == len(sources)
    assert media.media_digest((picture.copy(), other.copy())) == media.media_digest([picture, other])
