"""Frames to files: mp4, gif, png, npy; and moving a file to its place in the output."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import imageio_ffmpeg
import numpy as np
from PIL import GifImagePlugin, Image, ImageChops

from vidgen_dist.media.hashing import update_digest
from vidgen_dist.media.tags import check_tags, ffmetadata, gif_comment, gif_label, png_chunks
from vidgen_dist.output_layout import VIDEOS_FOLDER
from vidgen_dist.request import MAX_FPS, MIN_FPS
from vidgen_dist.storage.folder import Storage

FORMATS = ("mp4", "gif", "png", "npy")

# Browsers show a frame of less than 2 hundredths of a second for 10.
MAX_GIF_FPS = 50.0

# Errors of the disk that ffmpeg may report.
_OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)

GIF_END = b";"
"""The last byte of a gif."""

# libx264's output depends on its number of threads, which therefore must not depend on the host's cores.
X264_THREADS = 1

FOLDER_DIGITS = 16
"""Digits of the SHA-256 of a folder of frames that are its name."""

Frames = np.ndarray
"""(F, H, W, 3) uint8."""


@dataclass(frozen=True)
class EncodedVideo:
    """A video on this host's disk.

    Attributes:
        path: The file; the folder of frames for "png".
        bytes: Size of the file; for "png" of all frames together.
        sha256: Hex digest of the file; for "png" of the frames' files one after the other.
        frames: Number of frames.
        fps: Frames per second at which the file plays.
        width, height: Size of the file's frames in pixels.
    """

    path: Path
    bytes: int
    sha256: str
    frames: int
    fps: float
    width: int
    height: int


def to_uint8(frames: np.ndarray) -> Frames:
    """Converts frames in [0, 1] to bytes, as diffusers' `numpy_to_pil` does: `(x * 255).round()`.

    Values outside [0, 1] are clipped.

    Args:
        frames: (F, H, W, 3) floating point.

    Returns:
        (F, H, W, 3) uint8.

    Raises:
        ValueError: Another shape or type, or a NaN or infinite value.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or not np.issubdtype(frames.dtype, np.floating):
        raise ValueError(
            f"frames are {frames.dtype} of shape {frames.shape}; allowed: (F, H, W, 3) floating point"
        )
    out = np.empty(frames.shape, np.uint8)
    # Frame by frame: otherwise three more copies of a long clip would be held.
    for index, frame in enumerate(frames):
        if not np.isfinite(frame).all():
            raise ValueError(f"frame {index} holds values that are NaN or infinite")
        out[index] = np.round(np.clip(frame, 0.0, 1.0) * 255)
    return out


def write_video(
    frames: Frames,
    path: str | os.PathLike[str],
    *,
    format: str,
    fps: float,
    crf: int,
    tags: Mapping[str, str] | None = None,
) -> EncodedVideo:
    """Writes a clip to a local file, or to a folder of frames.

    - "mp4": H.264, yuv420p, BT.601 matrix with limited range and tagged so, index in front. yuv420p needs
      even sizes: an odd height or width is padded by repeating the last row or column.
    - "gif": one palette per clip, endless loop. Durations are hundredths of a second that add up to
      F / fps; above 50 fps it plays at 50, because viewers slow shorter frames down. A frame that equals
      the one before it stays a frame.
    - "png": a folder with `000000.png`, `000001.png`, …
    - "npy": the array itself, lossless.

    Args:
        frames: (F, H, W, 3) uint8, F at least 1.
        path: The file, or for "png" the folder, to write; an existing one is replaced.
        format: One of `FORMATS`.
        fps: Frames per second, 0.01 to 1000; may be fractional (23.976).
        crf: Quality of mp4, 0 (lossless) to 51 (worst), see ffmpeg's H.264 guide; other formats ignore it.
        tags: The file's metadata, as `provenance.provenance_tags` makes it; pixels stay the same. Tags are in
            the format's own metadata, with "png" in every frame (see `media.tags`); "npy" has none.

    Raises:
        ValueError: Frames of another shape or type, an argument out of range, or a tag that not every
            format can hold.
        RuntimeError: ffmpeg failed; the message ends with ffmpeg's.
        ChildProcessError: ffmpeg was killed; trying again may help.
        OSError: The disk refused.
    """
    _check_arguments(frames, format, fps, crf)
    tags = check_tags(tags or {})
    path, frames = Path(path), np.ascontiguousarray(frames)
    if format == "png":
        return _write_png(frames, path, fps, tags)
    try:
        if format == "mp4":
            frames = _pad_to_even(frames)
            _write_mp4(frames, path, fps, crf, tags)
        elif format == "gif":
            fps = min(fps, MAX_GIF_FPS)
            _write_gif(frames, path, fps, tags)
        else:
            with path.open("wb") as file:
                # For a real file NumPy does not report why it cannot be written.
                np.save(SimpleNamespace(write=file.write), frames, allow_pickle=False)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return _encoded(path, [path], frames, fps)


def _check_arguments(frames: Frames, format: str, fps: float, crf: int) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ValueError(
            f"frames are {frames.dtype} of shape {frames.shape}; allowed: (F, H, W, 3) uint8, none of them 0"
        )
    if format not in FORMATS:
        raise ValueError(f"format {format!r} is not allowed; allowed: {', '.join(FORMATS)}")
    if not MIN_FPS <= fps <= MAX_FPS:
        raise ValueError(f"fps {fps!r} is not allowed; allowed: {MIN_FPS:g} to {MAX_FPS:g}")
    if not 0 <= crf <= 51:
        raise ValueError(f"crf {crf!r} is not allowed; allowed: 0 to 51")


def _encoded(path: Path, files: Sequence[Path], frames: Frames, fps: float) -> EncodedVideo:
    digest = hashlib.sha256()
    size = 0
    for file in files:
        with file.open("rb") as opened:
            size += update_digest(digest, opened)
    count, height, width, _ = frames.shape
    return EncodedVideo(path, size, digest.hexdigest(), count, float(fps), width, height)


def _pad_to_even(frames: Frames) -> Frames:
    _, height, width, _ = frames.shape
    if height % 2 == 0 and width % 2 == 0:
        return frames
    return np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _write_mp4(frames: Frames, path: Path, fps: float, crf: int, tags: Mapping[str, str]) -> None:
    with tempfile.NamedTemporaryFile(prefix="vidgen-", suffix=".ffmetadata") as metadata:
        # A file, because an argument cannot be longer than 128 KiB.
        metadata.write(ffmetadata(tags))
        metadata.flush()
        options = ["-f", "ffmetadata", "-i", f"file:{metadata.name}", "-map", "0:v", "-map_metadata", "1"]
        # By default the muxer drops keys that QuickTime does not know.
        options += ["-movflags", "+faststart+use_metadata_tags" if tags else "+faststart"]
        _run_ffmpeg(frames, path, fps, crf, options)


def _run_ffmpeg(frames: Frames, path: Path, fps: float, crf: int, options: Sequence[str]) -> None:
    _, height, width, _ = frames.shape
    rate = Fraction(fps).limit_denominator(1001)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-loglevel", "error", "-nostdin", "-y"]
    command += ["-f", "rawvideo", "-pixel_format", "rgb24", "-video_size", f"{width}x{height}"]
    command += ["-framerate", f"{rate.numerator}/{rate.denominator}", "-i", "pipe:0"]
    command += options
    # `bitexact` here and `cpu-independent` below: the same bytes whatever the CPU's instruction set.
    scale = (
        "scale=out_color_matrix=smpte170m:out_range=tv:flags=bicubic+accurate_rnd+full_chroma_int+bitexact"
    )
    colours = "setparams=range=tv:colorspace=smpte170m:color_primaries=bt709:color_trc=bt709"
    command += ["-vf", f"{scale},format=yuv420p,{colours}"]
    command += ["-c:v", "libx264", "-preset", "medium", "-crf", str(crf), "-threads", str(X264_THREADS)]
    command += ["-x264-params", "cpu-independent=1"]
    # x264 writes its name into an SEI unit (type 6), ffmpeg into tags.
    command += ["-bsf:v", "filter_units=remove_types=6", "-metadata:s:v:0", "encoder="]
    command += ["-fflags", "+bitexact", "-flags:v", "+bitexact", "-f", "mp4", f"file:{path.absolute()}"]
    # A session of its own: the run handles Ctrl-C, and the clip being written is to be finished.
    done = subprocess.run(
        command, input=frames.data.cast("B"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        start_new_session=True, check=False,
    )  # fmt: skip
    if done.returncode < 0:
        # ffmpeg itself did not fail: most likely the host was short of memory.
        raise ChildProcessError(f"ffmpeg was killed by signal {-done.returncode} while it wrote {path.name}")
    if done.returncode != 0:
        stderr = done.stderr.decode("utf-8", "replace").strip()[-1000:]
        for number in _OF_DISKS:
            if os.strerror(number) in stderr:
                raise OSError(number, os.strerror(number), path.name)
        raise RuntimeError(f"ffmpeg could not write {path.name} (status {done.returncode}): {stderr}")


def _write_gif(frames: Frames, path: Path, fps: float, tags: Mapping[str, str]) -> None:
    palette = _gif_palette(frames)
    images = (Image.fromarray(frame).quantize(palette=palette) for frame in frames)
    with path.open("wb") as file:
        previous: Image.Image | None = None
        for index, image in enumerate(images):
            # Rounded ends, not rounded durations: errors do not add up.
            hundredths = round((index + 1) * 100 / fps) - round(index * 100 / fps)
            box = (0, 0, *image.size)
            if previous is None:
                comment = {"comment": gif_comment(tags)} if tags else {}
                blocks, _ = GifImagePlugin.getheader(image, info={"loop": 0, **comment})
                file.writelines([*blocks, gif_label(tags)])
            else:
                # Image.save would drop a frame that equals the one before it; here such a frame has one
                # pixel.
                box = ImageChops.difference(_indices(previous), _indices(image)).getbbox() or (0, 0, 1, 1)
            # disposal=1: the next frame is drawn over this one.
            file.writelines(
                GifImagePlugin.getdata(image.crop(box), box[:2], duration=10 * hundredths, disposal=1)
            )
            previous = image
        file.write(GIF_END)


def _indices(image: Image.Image) -> Image.Image:
    """The palette indices of a "P" image as greys."""
    return Image.frombytes("L", image.size, image.tobytes())


def _gif_palette(frames: Frames) -> Image.Image:
    """Up to 256 colours, chosen by maximum coverage from pixels spread over the clip."""
    pixels = frames.reshape(-1, 3)
    # The search takes seconds per million pixels. The step is odd, or all samples might come from few
    # columns.
    step = max(1, len(pixels) // 2**16) | 1
    sample = np.ascontiguousarray(pixels[::step])
    return Image.fromarray(sample[None]).quantize(256, method=Image.Quantize.MAXCOVERAGE)


def _write_png(frames: Frames, folder: Path, fps: float, tags: Mapping[str, str]) -> EncodedVideo:
    if folder.is_dir():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    try:
        chunks = png_chunks(tags)
        files = [folder / f"{index:06d}.png" for index in range(len(frames))]
        for file, frame in zip(files, frames, strict=True):
            Image.fromarray(frame).save(file, pnginfo=chunks)
    except BaseException:
        shutil.rmtree(folder)
        raise
    return _encoded(folder, files, frames, fps)


def commit_video(output: Storage, local: EncodedVideo, name: str) -> str:
    """Puts an encoded video under its final name and returns its full URI.

    Files are spread over 256 folders, by the first two hex digits of the name's SHA-256, because many
    filesystems are slow with a million entries in one folder: `videos/ab/NAME.mp4`. The file replaces that of
    an earlier rendering of the same row in one step.

    A folder of frames cannot be replaced in one step. It goes to `videos/ab/NAME/DIGEST/`, where DIGEST is
    the first 16 hex digits of `local.sha256`, so frames of two renderings never mix. The ledger entry,
    written after this returns, says that the folder is whole and which one counts. Folders of earlier
    renderings stay.

    Args:
        output: The run's output.
        local: What `write_video` returned.
        name: The row's file name without suffix, from `storage.safe_name(id)`.

    Raises:
        OSError: The storage failed; nothing that a ledger entry names has been touched.
    """
    place = video_stem(name)
    if local.path.is_dir():
        target = f"{place}/{local.sha256[:FOLDER_DIGITS]}"
        for file in sorted(local.path.iterdir()):
            output.put_file(file, f"{target}/{file.name}")
    else:
        target = f"{place}{local.path.suffix}"
        output.put_file(local.path, target)
    return output.uri(target)


def video_stem(name: str) -> str:
    """The path, without suffix, at which `commit_video` puts a video of this name; for "png" a folder."""
    return f"{VIDEOS_FOLDER}/{hashlib.sha256(name.encode()).hexdigest()[:2]}/{name}"
