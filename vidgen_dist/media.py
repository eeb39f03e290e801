"""Frames to files and back: mp4, gif, png, npy; conditioning images and clips in.

Frames of a video are arrays of shape (F, H, W, 3). Encoding is reproducible: the same frames with the
same settings give the same bytes on every host that has the same ffmpeg and Pillow.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import imageio_ffmpeg
import numpy as np
from PIL import GifImagePlugin, Image, ImageChops, ImageOps

from vidgen_dist import storage
from vidgen_dist.errors import Refused
from vidgen_dist.request import MAX_FPS, MIN_FPS
from vidgen_dist.storage import Storage, StorageError

FORMATS = ("mp4", "gif", "png", "npy")

# Formats that Pillow may try. Not all that it knows: EPS starts Ghostscript, MPEG opens and never decodes.
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "PPM", "TIFF", "JPEG2000", "AVIF")
ANIMATION_FORMATS = ("GIF", "PNG", "WEBP")
# Now, while there is one thread: Pillow loads its plugins on first use, which two threads may not do at once.
Image.init()

MAX_IMAGE_BYTES = 512 * 2**20
# Pillow warns of a decompression bomb from this size on.
MAX_IMAGE_PIXELS = 89_478_485
# Pixels of all frames of a clip: 6 GiB as RGB, 1,000 frames of 1080p.
MAX_CLIP_PIXELS = 2**31

# Browsers show a frame of less than 2 hundredths of a second for 10.
MAX_GIF_FPS = 50.0

# libx264's output depends on the number of its threads, which therefore must not follow the host's cores.
X264_THREADS = 1

# Bytes asked for at a time: on an object store each is a request.
_BLOCK = 2**24

Frames = np.ndarray
"""(F, H, W, 3) uint8."""


class MediaError(ValueError):
    """An image or a clip that cannot be read: names the source and what is allowed."""


@dataclass(frozen=True)
class EncodedVideo:
    """A video as it lies on this host's disk.

    Attributes:
        path: The file; the folder of frames for "png".
        bytes: Size of the file; of all frames together for "png".
        sha256: Hex digest of the file; of the frames' files one after the other for "png".
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


# ---------------------------------------------------------------------------------------------------------
# Frames to files


def to_uint8(frames: np.ndarray) -> Frames:
    """Turns frames in [0, 1] to bytes, as diffusers' `numpy_to_pil` does: `(x * 255).round()`.

    Values outside [0, 1] are clipped.

    Args:
        frames: (F, H, W, 3) floating point.

    Returns:
        (F, H, W, 3) uint8.

    Raises:
        ValueError: Another shape or type, or a value that is not a number.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or not np.issubdtype(frames.dtype, np.floating):
        raise ValueError(
            f"frames are {frames.dtype} of shape {frames.shape}; allowed: (F, H, W, 3) floating point"
        )
    out = np.empty(frames.shape, np.uint8)
    # Frame by frame, or a long clip would be held three more times.
    for index, frame in enumerate(frames):
        if np.isnan(frame).any():
            raise ValueError(f"frame {index} holds values that are not a number")
        out[index] = np.round(np.clip(frame, 0.0, 1.0) * 255)
    return out


def write_video(
    frames: Frames, path: str | os.PathLike[str], *, format: str, fps: float, crf: int
) -> EncodedVideo:
    """Writes a clip to a local file, or to a folder of frames.

    - "mp4": H.264, yuv420p, BT.601 matrix with limited range and tagged so, index in front. yuv420p needs
      even sizes: an odd height or width is padded by repeating the last row or column.
    - "gif": one palette a clip, endless loop. Durations are hundredths of a second that add up to
      F / fps; above 50 fps it plays at 50, because viewers slow shorter frames down. A frame that equals
      the one before stays a frame.
    - "png": a folder with `000000.png`, `000001.png`, …
    - "npy": the array itself, lossless.

    Args:
        frames: (F, H, W, 3) uint8, F at least 1.
        path: The file, or for "png" the folder, to write; what is there is replaced.
        format: One of `FORMATS`.
        fps: Frames per second, 0.01 to 1000; may be fractional (23.976).
        crf: Quality of mp4, 0 (lossless) to 51 (worst), see the H.264 guide of ffmpeg; no other
            format reads it.

    Raises:
        ValueError: Frames of another shape or type, or an argument out of range.
        RuntimeError: ffmpeg failed; ends with what it said.
        OSError: The disk refused.
    """
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
    path, frames = Path(path), np.ascontiguousarray(frames)
    if format == "png":
        return _write_png(frames, path, fps)
    try:
        if format == "mp4":
            frames = _pad_to_even(frames)
            _write_mp4(frames, path, fps, crf)
        elif format == "gif":
            fps = min(fps, MAX_GIF_FPS)
            _write_gif(frames, path, fps)
        else:
            with path.open("wb") as file:
                np.save(file, frames, allow_pickle=False)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return _encoded(path, [path], frames, fps)


def _encoded(path: Path, files: Sequence[Path], frames: Frames, fps: float) -> EncodedVideo:
    digest = hashlib.sha256()
    size = 0
    for file in files:
        with file.open("rb") as opened:
            size += _feed(digest, opened)
    count, height, width, _ = frames.shape
    return EncodedVideo(path, size, digest.hexdigest(), count, float(fps), width, height)


def _feed(digest: Any, file: IO[bytes]) -> int:
    size = 0
    while block := file.read(_BLOCK):
        digest.update(block)
        size += len(block)
    return size


def _pad_to_even(frames: Frames) -> Frames:
    _, height, width, _ = frames.shape
    if height % 2 == 0 and width % 2 == 0:
        return frames
    return np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _write_mp4(frames: Frames, path: Path, fps: float, crf: int) -> None:
    _, height, width, _ = frames.shape
    rate = Fraction(fps).limit_denominator(1001)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-loglevel", "error", "-nostdin", "-y"]
    command += ["-f", "rawvideo", "-pixel_format", "rgb24", "-video_size", f"{width}x{height}"]
    command += ["-framerate", f"{rate.numerator}/{rate.denominator}", "-i", "pipe:0"]
    # `bitexact` here and `cpu-independent` below: the same bytes whatever the CPU's instruction set.
    scale = (
        "scale=out_color_matrix=smpte170m:out_range=tv:flags=bicubic+accurate_rnd+full_chroma_int+bitexact"
    )
    tags = "setparams=range=tv:colorspace=smpte170m:color_primaries=bt709:color_trc=bt709"
    command += ["-vf", f"{scale},format=yuv420p,{tags}"]
    command += ["-c:v", "libx264", "-preset", "medium", "-crf", str(crf), "-threads", str(X264_THREADS)]
    command += ["-x264-params", "cpu-independent=1"]
    # x264 signs its work in an SEI unit (type 6), ffmpeg in tags.
    command += ["-bsf:v", "filter_units=remove_types=6", "-metadata:s:v:0", "encoder="]
    command += ["-fflags", "+bitexact", "-flags:v", "+bitexact", "-movflags", "+faststart"]
    command += ["-f", "mp4", f"file:{path.absolute()}"]
    # A session of its own: Ctrl-C is the run's to handle, the clip under way is to be finished.
    done = subprocess.run(
        command, input=frames.data.cast("B"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        start_new_session=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip()[-1000:]
        raise RuntimeError(f"ffmpeg could not write {path.name} (status {done.returncode}): {said}")


def _write_gif(frames: Frames, path: Path, fps: float) -> None:
    palette = _gif_palette(frames)
    images = (Image.fromarray(frame).quantize(palette=palette) for frame in frames)
    with path.open("wb") as file:
        previous: Image.Image | None = None
        for index, image in enumerate(images):
            # Rounded ends, not rounded durations: the error does not add up.
            hundredths = round((index + 1) * 100 / fps) - round(index * 100 / fps)
            box = (0, 0, *image.size)
            if previous is None:
                blocks, _ = GifImagePlugin.getheader(image, info={"loop": 0})
                file.writelines(blocks)
            else:
                # Image.save would drop a frame that equals the one before; here it keeps one pixel.
                box = ImageChops.difference(_indices(previous), _indices(image)).getbbox() or (0, 0, 1, 1)
            # disposal=1: the next frame is drawn over this one.
            file.writelines(
                GifImagePlugin.getdata(image.crop(box), box[:2], duration=10 * hundredths, disposal=1)
            )
            previous = image
        file.write(b";")


def _indices(image: Image.Image) -> Image.Image:
    """The palette indices of a "P" image as greys."""
    return Image.frombytes("L", image.size, image.tobytes())


def _gif_palette(frames: Frames) -> Image.Image:
    """Up to 256 colours, chosen by maximum coverage from pixels spread over the clip."""
    pixels = frames.reshape(-1, 3)
    # The search takes seconds per million pixels. An odd step, lest all samples come from a few columns.
    step = max(1, len(pixels) // 2**16) | 1
    sample = np.ascontiguousarray(pixels[::step])
    return Image.fromarray(sample[None]).quantize(256, method=Image.Quantize.MAXCOVERAGE)


def _write_png(frames: Frames, folder: Path, fps: float) -> EncodedVideo:
    if folder.is_dir():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    try:
        files = [folder / f"{index:06d}.png" for index in range(len(frames))]
        for file, frame in zip(files, frames, strict=True):
            Image.fromarray(frame).save(file)
    except BaseException:
        shutil.rmtree(folder)
        raise
    return _encoded(folder, files, frames, fps)


def commit_video(output: Storage, local: EncodedVideo, name: str) -> str:
    """Puts an encoded video under its final name and returns its full URI.

    Files are spread over 256 folders, by the first two hex digits of the name's SHA-256, since a million
    entries in one folder are slow on many filesystems: `videos/ab/NAME.mp4`. The file replaces that of an
    earlier rendering of the same row at once and whole.

    A folder of frames cannot be replaced at once. It goes to `videos/ab/NAME/DIGEST/`, DIGEST being the
    first 16 hex digits of `local.sha256`, so frames of two renderings never mix; the ledger entry, written
    after this returns, is what says that the folder is whole and which one counts. Folders of earlier
    renderings stay.

    Args:
        output: The run's output.
        local: What `write_video` returned.
        name: The row's file name without suffix, from `storage.safe_name(id)`.

    Raises:
        OSError: The storage refused; nothing that a ledger entry names has been touched.
    """
    folder = f"videos/{hashlib.sha256(name.encode()).hexdigest()[:2]}"
    if local.path.is_dir():
        target = f"{folder}/{name}/{local.sha256[:16]}"
        for file in sorted(local.path.iterdir()):
            output.put_file(file, f"{target}/{file.name}")
    else:
        target = f"{folder}/{name}{local.path.suffix}"
        output.put_file(local.path, target)
    return output.uri(target)


# ---------------------------------------------------------------------------------------------------------
# Files to frames


def read_image(source: Any) -> Image.Image:
    """Reads a conditioning image, as diffusers' `load_image` does: upright by its EXIF tag, alpha dropped.

    Args:
        source: A local path, a URI, the encoded bytes, a PIL image, or the mapping with `bytes` and `path`
            that Hugging Face `datasets` writes for an image.

    Returns:
        An image of mode "RGB".

    Raises:
        MediaError: There is no such file, or it is no image, or more than `MAX_IMAGE_PIXELS` large, or grey
            with more than 8 bits.
        OSError: The storage failed for another reason; asking again may help.
    """
    shown = _shown(source)
    if isinstance(source, Image.Image):
        return _rgb(lambda: source, shown)
    data = _read_bytes(source, shown)
    return _rgb(lambda: Image.open(io.BytesIO(data), formats=IMAGE_FORMATS), shown)


def _rgb(opened: Callable[[], Image.Image], shown: str) -> Image.Image:
    try:
        image = opened()
        _check_size(image, shown)
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            # Pillow would cut all that is above 255: a white image.
            raise MediaError(f"{shown}: greys of more than 8 bits (mode {image.mode}); allowed: 8 bits")
        return ImageOps.exif_transpose(image).convert("RGB")
    except MediaError:
        raise
    except Exception as error:  # decoders of foreign bytes raise whatever they please
        raise MediaError(
            f"{shown}: does not decode as an image ({_cause(error)}); allowed: {', '.join(IMAGE_FORMATS)}"
        ) from error


def _check_size(image: Image.Image, shown: str) -> None:
    if image.width * image.height > MAX_IMAGE_PIXELS:
        raise MediaError(
            f"{shown}: {image.width}x{image.height} pixels; allowed: up to {MAX_IMAGE_PIXELS:,} pixels"
        )


def read_video(source: Any) -> list[Image.Image]:
    """Reads a conditioning clip, frame by frame in the order of showing.

    Animated GIF, PNG and WebP are read by Pillow, each frame once; everything else by ffmpeg, as
    `imageio` (and so diffusers' `load_video`) does: frames at the stream's nominal rate, upright.

    Args:
        source: A local path, a URI, the encoded bytes, a mapping with `bytes` and `path` as `datasets`
            writes it, or a sequence of images (PIL, or whatever `read_image` takes).

    Returns:
        At least one image of mode "RGB", all of one size.

    Raises:
        MediaError: There is no such file, it is broken or no clip, its frames differ in size, or
            they are together more than `MAX_CLIP_PIXELS` large.
        OSError: The storage failed for another reason; asking again may help.
    """
    shown = _shown(source)
    if _is_sequence(source):
        frames = [read_image(frame) for frame in source]
    else:
        with _local_file(source, shown) as path:
            animation = _read_animation(path, shown)
            frames = _read_with_ffmpeg(path, shown) if animation is None else animation
    if not frames:
        raise MediaError(f"{shown}: no frames; allowed: at least one")
    for index, frame in enumerate(frames):
        if frame.size != frames[0].size:
            first = "{}x{}".format(*frames[0].size)
            raise MediaError(
                f"{shown}: frame {index} is {frame.width}x{frame.height}; allowed: {first} as frame 0"
            )
    return frames


def _read_animation(path: Path, shown: str) -> list[Image.Image] | None:
    """The frames of a GIF, PNG or WebP; None when it is none of these."""
    with path.open("rb") as file:
        try:
            image = Image.open(file, formats=ANIMATION_FORMATS)
        except Image.UnidentifiedImageError:
            return None
        except Exception as error:
            raise MediaError(f"{shown}: does not decode as a clip ({_cause(error)})") from error
        _check_size(image, shown)
        frames: list[Image.Image] = []
        try:
            for index in range(getattr(image, "n_frames", 1)):
                _check_clip(index + 1, image.width, image.height, shown)
                image.seek(index)
                frames.append(image.convert("RGB"))
        except MediaError:
            raise
        except Exception as error:
            raise MediaError(f"{shown}: frame {len(frames)} does not decode ({_cause(error)})") from error
    return frames


def _check_clip(frames: int, width: int, height: int, shown: str) -> None:
    if frames * width * height > MAX_CLIP_PIXELS:
        limit = MAX_CLIP_PIXELS // (width * height)
        raise MediaError(
            f"{shown}: more than {limit} frames of {width}x{height}; "
            f"allowed: up to {MAX_CLIP_PIXELS:,} pixels in all"
        )


def _read_with_ffmpeg(path: Path, shown: str) -> list[Image.Image]:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-loglevel", "error", "-nostdin"]
    # Only files: a playlist in disguise must not make us call other hosts.
    command += ["-protocol_whitelist", "file"]
    # By default ffmpeg makes do with what it can decode.
    command += ["-xerror", "-max_error_rate", "0", "-i", f"file:{path.absolute()}"]
    command += ["-an", "-sn", "-dn", "-pix_fmt", "rgb24", "-c:v", "ppm", "-f", "image2pipe", "pipe:1"]
    frames: list[Image.Image] = []
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, start_new_session=True
        )
        try:
            assert process.stdout is not None
            while (frame := _read_ppm(process.stdout, len(frames), shown)) is not None:
                frames.append(frame)
            status = process.wait()
        finally:
            process.kill()
            process.communicate()
        said.seek(0)
        complaint = said.read().decode("utf-8", "replace")
    # Of a Matroska file cut short ffmpeg says so, and that is all.
    if status != 0 or "ended prematurely" in complaint or not frames:
        reason = re.sub(r" @ 0x[0-9a-f]+", "", complaint.replace(f"file:{path.absolute()}", shown))
        raise MediaError(
            f"{shown}: does not decode as a clip ({' '.join(reason.split())[:300] or 'no video in it'}); "
            "allowed: any container and codec that ffmpeg reads, unbroken"
        )
    return frames


def _read_ppm(stream: IO[bytes], index: int, shown: str) -> Image.Image | None:
    """One frame of ffmpeg's stream, which carries its size with it; None at the stream's end."""
    if stream.readline() != b"P6\n":
        return None
    width, height = (int(part) for part in stream.readline().split())
    _check_clip(index + 1, width, height, shown)
    stream.readline()
    data = stream.read(width * height * 3)
    if len(data) < width * height * 3:
        return None
    return Image.frombytes("RGB", (width, height), data)


def media_digest(source: Any) -> str:
    """SHA-256, as hex, of what decides an image or a clip: its encoded bytes, wherever they lie.

    A PIL image, which has no bytes of its own, counts by mode, size and pixels; a sequence by the digests
    of its members.

    Raises:
        MediaError: There is no such file.
        OSError: The storage failed for another reason.
    """
    digest = hashlib.sha256()
    if isinstance(source, Image.Image):
        digest.update(f"PIL {source.mode} {source.width}x{source.height}\n".encode())
        # Pixels of a palette image are indices; and an image is shown turned as its EXIF tag says.
        digest.update(bytes(source.getpalette() or b""))
        digest.update(str(source.getexif().get(274)).encode())
        digest.update(source.tobytes())
    elif _is_sequence(source):
        digest.update(f"sequence of {len(source)}\n".encode())
        for member in source:
            digest.update(media_digest(member).encode())
    else:
        with _opened(source, _shown(source)) as file:
            _feed(digest, file)
    return digest.hexdigest()


# ---------------------------------------------------------------------------------------------------------
# Sources


def _is_sequence(source: Any) -> bool:
    return isinstance(source, Sequence) and not isinstance(source, str | bytes | bytearray | memoryview)


def _shown(source: Any) -> str:
    """A source as messages name it: short, and of a URI neither user, password nor signature."""
    if isinstance(source, Mapping):
        return _shown(source.get("path") or source.get("bytes"))
    if isinstance(source, Image.Image):
        return f"PIL image {source.width}x{source.height}"
    if isinstance(source, bytes | bytearray | memoryview):
        return f"{len(source)} bytes"
    if _is_sequence(source):
        return f"sequence of {len(source)} images"
    if not isinstance(source, str | os.PathLike):
        return type(source).__name__
    text = os.fspath(source)
    text = storage.redact(os.fsdecode(text))
    return text if len(text) <= 200 else f"{text[:100]}...{text[-97:]}"


def _cause(error: Exception) -> str:
    # Pillow names the object that it read from, at an address that is another one each time.
    return re.sub(r" <[^>]* at 0x[0-9a-f]+>", "", f"{type(error).__name__}: {error}")[:300]


@contextlib.contextmanager
def _opened(source: Any, shown: str) -> Iterator[IO[bytes]]:
    if isinstance(source, Mapping):
        source = source.get("bytes") if source.get("bytes") is not None else source.get("path")
    if isinstance(source, bytes | bytearray | memoryview):
        yield io.BytesIO(source)
        return
    if not isinstance(source, str | os.PathLike):
        raise MediaError(f"{shown} is not allowed; allowed: a path, a URI, encoded bytes or PIL images")
    uri = os.fspath(source)
    if not isinstance(uri, str):
        raise MediaError(f"{shown}: a path of bytes is not allowed; allowed: a text")
    try:
        file = storage.open_input(uri)
    except (FileNotFoundError, Refused, ValueError) as error:
        raise MediaError(f"{shown}: cannot be opened: {str(error)[-200:]}") from error
    except StorageError as error:
        # What this machine's disk refuses (a folder, no permission) it refuses again.
        if storage.is_local(uri):
            raise MediaError(f"{shown}: cannot be opened: {str(error)[-200:]}") from error
        raise
    with file:
        try:
            yield file
        except (OSError, MediaError):
            raise
        except Exception as error:  # noqa: BLE001
            # Clients of object stores have errors of their own, which may hold signed URLs.
            raise StorageError(f"cannot read {shown}: {type(error).__name__}") from None


def _read_bytes(source: Any, shown: str) -> bytes:
    with _opened(source, shown) as file:
        data = file.read(MAX_IMAGE_BYTES + 1)
    if len(data) > MAX_IMAGE_BYTES:
        raise MediaError(f"{shown}: too large for an image; allowed: up to {MAX_IMAGE_BYTES:,} bytes")
    return data


@contextlib.contextmanager
def _local_file(source: Any, shown: str) -> Iterator[Path]:
    """A file that ffmpeg can seek in: the source itself when it is one, else a temporary copy."""
    if isinstance(source, str | os.PathLike) and os.path.isfile(source):
        yield Path(os.fspath(source))
        return
    with tempfile.NamedTemporaryFile(prefix="vidgen-") as copy:
        with _opened(source, shown) as file:
            shutil.copyfileobj(file, copy, _BLOCK)
        copy.flush()
        yield Path(copy.name)
