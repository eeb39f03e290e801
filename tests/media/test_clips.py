"""Clips are read from every container; other files are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from tests.media.clips import encoded, ffmpeg, psnr, smooth, write
from vidgen_dist import media
from vidgen_dist.media import MediaError, MediaLimits


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
    """A failure of the storage is reported likewise, and is tried again; a broken file is given up."""
    video = write(smooth(2, 16, 16), tmp_path, "mp4").path
    decoder = tmp_path / "ffmpeg"
    decoder.write_text("#!/bin/sh\nkill -9 $$\n")
    decoder.chmod(0o700)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(decoder))
    with pytest.raises(ChildProcessError, match=r"killed by signal 9 while it read .*clip\.mp4"):
        read(video)


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same second of video, with sound, in many containers; one with a rotated picture."""
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


def test_a_clip_too_long_is_given_up(containers: dict[str, Path], tmp_path: Path) -> None:
    gif = write(smooth(10, 48, 64), tmp_path, "gif").path
    limits = MediaLimits(clip_pixels=9 * 64 * 48)
    for path in (gif, containers["webm"]):
        with pytest.raises(MediaError, match="more than 9 frames of 64x48"):
            media.read_video(path, limits)


def test_temporary_copies_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write(smooth(2, 16, 16), tmp_path, "mp4").path.read_bytes()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(media.decoding.tempfile, "tempdir", str(scratch))
    media.read_video(data)
    with pytest.raises(MediaError):
        media.read_video(data[:-100])
    assert list(scratch.iterdir()) == []


def test_the_name_of_a_clip_does_not_decide_what_it_is(tmp_path: Path) -> None:
    # Of a text with this name ffmpeg makes a film of a terminal.
    path = tmp_path / "prompts.txt"
    path.write_text("a fox runs\n" * 20)
    for source in (path, path.read_bytes()):
        with pytest.raises(media.MediaError, match="does not decode as a clip"):
            media.read_video(source)
