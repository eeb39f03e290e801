"""Files to frames: conditioning images and clips, on any storage."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import imageio_ffmpeg
import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin

from vidgen_dist.errors import Refused, RowError
from vidgen_dist.inline import decode_inline, is_inline
from vidgen_dist.media.file_signatures import CLIP_KINDS, SIGNATURE_BYTES, describe_file_kind, is_heif
from vidgen_dist.media.hashing import BLOCK, update_digest
from vidgen_dist.media.pillow_compat import needs_rewrite, rewrite_animation, rewrite_image
from vidgen_dist.storage import uris
from vidgen_dist.storage.failures import StorageError
from vidgen_dist.storage.files import open_input

# Formats that Pillow may try. Not all it knows: EPS starts Ghostscript, and MPEG opens but never decodes.
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "PPM", "TIFF", "JPEG2000", "AVIF")
ANIMATION_FORMATS = ("GIF", "PNG", "WEBP", "AVIF", "TIFF")

MAX_SHOWN = 120
"""Characters of a source's name that a message shows, at most."""

# Above this size Pillow warns of a decompression bomb.
MAX_IMAGE_PIXELS = 89_478_485


@dataclass(frozen=True)
class MediaLimits:
    """How large images and clips may be: a worker holds them in memory.

    Args:
        image_bytes: Bytes of an image's file.
        clip_pixels: Pixels of all frames of a clip: 6 GiB as RGB, 1,000 frames of 1080p.
    """

    image_bytes: int = 512 * 2**20
    clip_pixels: int = 2**31


# The values of the EXIF tag, except 1, and how to turn an image upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class MediaError(RowError, ValueError):
    """An image or a clip cannot be read; the message names the source and what is allowed."""


def ignore_warnings() -> None:
    """Ignore Pillow's warnings in this process, unless its user asked for them.

    They say what is odd in a file (truncated EXIF, unknown tags) but not in which file, and a manifest may
    have a million such files. A file that cannot be read is an error anyway.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.", append=True)


def read_image(source: Any, limits: MediaLimits = MediaLimits()) -> Image.Image:
    """Reads a conditioning image, as diffusers' `load_image` does: upright by its EXIF tag, alpha dropped.

    An animation or a file of several pages gives its first frame or page. Greys of 16 bits become 8 bits,
    their high byte, as Pillow itself reads colours of 16 bits. Colour profiles are not applied.

    Args:
        source: A local path, a URI, the encoded bytes, a PIL image, or the mapping with `bytes` and `path`
            that Hugging Face `datasets` writes for an image.
        limits: How large it may be.

    Returns:
        An image of mode "RGB".

    Raises:
        MediaError: There is no such file, it is not an image, is broken, has more than `MAX_IMAGE_PIXELS`
            pixels, or its values have 32 bits.
        OSError: The storage failed for another reason; trying again may help.
    """
    shown = _describe_source(source)
    if isinstance(source, Image.Image):
        _check_size(source, shown)
        return _upright(source, shown)
    data = rewrite_image(_read_bytes(source, shown, limits))
    with _open_image(io.BytesIO(data), IMAGE_FORMATS, shown) as image:
        return _upright(image, shown)


def _open_image(file: IO[bytes], formats: tuple[str, ...], shown: str) -> Image.Image:
    """An opened image; only its header is read.

    Raises:
        MediaError: It is too large or damaged, or has none of the formats; then the cause is Pillow's
            UnidentifiedImageError.
    """
    allowed = f"allowed: {', '.join(formats)}"
    try:
        image = Image.open(file, formats=formats)
    except Image.DecompressionBombError as error:
        size = str(error).split(" exceeds")[0]
        raise MediaError(f"{shown}: {size}; allowed: up to {MAX_IMAGE_PIXELS:,} pixels") from error
    except Image.UnidentifiedImageError as error:
        file.seek(0)
        kind = describe_file_kind(file.read(SIGNATURE_BYTES))
        reason = _decoder_message(error) if kind is None else f"{kind}; {_decoder_message(error)}"
        raise MediaError(f"{shown}: does not decode as an image ({reason}); {allowed}") from error
    except Exception as error:  # decoders of foreign bytes raise whatever they please
        raise MediaError(
            f"{shown}: does not decode as an image ({_decoder_message(error)}); {allowed}"
        ) from error
    _check_size(image, shown)
    return image


def _upright(image: Image.Image, shown: str) -> Image.Image:
    """The image turned upright, in mode "RGB"."""
    try:
        image.load()
        method = _UPRIGHT.get(_orientation(image))
        rgb = _to_rgb(image, shown)
        return rgb if method is None else rgb.transpose(method)
    except MediaError:
        raise
    except Exception as error:  # decoders of foreign bytes raise whatever they please
        reason, allowed = _decoder_message(error), ", ".join(IMAGE_FORMATS)
        raise MediaError(f"{shown}: does not decode as an image ({reason}); allowed: {allowed}") from error


def _orientation(image: Image.Image) -> Any:
    """The EXIF tag that says how to turn an image; None to leave it as it is."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001
        # Unreadable EXIF says nothing about the pixels, which may be fine; viewers ignore it, too.
        return None


def _to_rgb(image: Image.Image, shown: str) -> Image.Image:
    """A loaded image as mode "RGB", without alpha."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return _deep_grey(image).convert("RGB")
    if image.mode in ("I", "F"):
        # Pillow would clip everything above 255: a white image.
        raise MediaError(
            f"{shown}: greys of more than 8 bits, whose white is not known (mode {image.mode}, 32 bits); "
            "allowed: 8 or 16 bits"
        )
    if image.mode == "P" and "transparency" in image.info:
        # Pillow warns about each image that its transparency is lost.
        image = image.copy()
        del image.info["transparency"]
    return image.convert("RGB")


def _deep_grey(image: Image.Image) -> Image.Image:
    """Greys of 9 to 16 bits as mode "L": their 8 high bits."""
    bits, white_is_zero = 16, False
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        # Pillow gives a TIFF's values as they are stored, other formats' from 0 to 65,535.
        bits = image.tag_v2[TiffImagePlugin.BITSPERSAMPLE][0]
        white_is_zero = image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 0) == 0
    grey = (np.asarray(image) >> (bits - 8)).astype(np.uint8)
    return Image.fromarray(255 - grey if white_is_zero else grey)


def _check_size(image: Image.Image, shown: str) -> None:
    if image.width * image.height > MAX_IMAGE_PIXELS:
        raise MediaError(
            f"{shown}: {image.width}x{image.height} pixels; allowed: up to {MAX_IMAGE_PIXELS:,} pixels"
        )


def read_video(source: Any, limits: MediaLimits = MediaLimits()) -> list[Image.Image]:
    """Reads a conditioning clip, frame by frame in the order of showing.

    Pillow reads animated GIF, PNG, WebP and AVIF, and TIFF of several pages, each frame once, however long it
    is shown. ffmpeg reads everything else, as `imageio` (and so diffusers' `load_video`) does: frames at the
    stream's nominal rate, upright.

    Args:
        source: A local path, a URI, the encoded bytes, a mapping with `bytes` and `path` as `datasets`
            writes it, or a sequence of images (PIL, or whatever `read_image` takes).
        limits: How large it may be.

    Returns:
        At least one image of mode "RGB", all of one size.

    Raises:
        MediaError: There is no such file, it is broken or not a clip, its frames differ in size, or they have
            more pixels together than is allowed.
        OSError: The storage failed for another reason, or ffmpeg was killed; trying again may help.
    """
    shown = _describe_source(source)
    if _is_sequence(source):
        frames = [read_image(frame, limits) for frame in source]
    else:
        with _local_file(source, shown) as path:
            animation = _read_animation(path, shown, limits)
            frames = _read_with_ffmpeg(path, shown, limits) if animation is None else animation
    if not frames:
        raise MediaError(f"{shown}: no frames; allowed: at least one")
    for index, frame in enumerate(frames):
        if frame.size != frames[0].size:
            first = "{}x{}".format(*frames[0].size)
            raise MediaError(
                f"{shown}: frame {index} is {frame.width}x{frame.height}; allowed: {first} as frame 0"
            )
    return frames


def _read_animation(path: Path, shown: str, limits: MediaLimits) -> list[Image.Image] | None:
    """The frames of a file in an animation format; None if it is in none of them."""
    with path.open("rb") as file:
        beginning = file.read(SIGNATURE_BYTES)
        file.seek(0)
        opened = io.BytesIO(rewrite_animation(file.read())) if needs_rewrite(beginning) else file
        try:
            image = _open_image(opened, ANIMATION_FORMATS, shown)
        except MediaError as error:
            # From AVIF and HEIC ffmpeg reads only one of several pictures, or one tile of a picture.
            if isinstance(error.__cause__, Image.UnidentifiedImageError) and not is_heif(beginning):
                return None
            raise
        frames: list[Image.Image] = []
        try:
            count = getattr(image, "n_frames", 1)
            if image.format == "TIFF" and count == 1:
                return None
            # The picture that an animated PNG has for viewers without animation is not one of its frames.
            first = int(getattr(image, "default_image", False))
            for index in range(first, count):
                image.seek(index)
                _check_clip(len(frames) + 1, image.width, image.height, shown, limits)
                image.load()
                frames.append(_to_rgb(image, shown))
        except MediaError:
            raise
        except Exception as error:
            raise MediaError(
                f"{shown}: frame {len(frames)} does not decode ({_decoder_message(error)})"
            ) from error
    return frames


def _check_clip(frames: int, width: int, height: int, shown: str, limits: MediaLimits) -> None:
    if frames * width * height > limits.clip_pixels:
        most = limits.clip_pixels // (width * height)
        raise MediaError(
            f"{shown}: more than {most} frames of {width}x{height}; "
            f"allowed: up to {limits.clip_pixels:,} pixels in all"
        )


def _read_with_ffmpeg(path: Path, shown: str, limits: MediaLimits) -> list[Image.Image]:
    command = decoder_command(path)
    command += ["-an", "-sn", "-dn", "-pix_fmt", "rgb24", "-c:v", "ppm", "-f", "image2pipe", "pipe:1"]
    frames: list[Image.Image] = []
    with tempfile.TemporaryFile() as stderr:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, start_new_session=True
        )
        try:
            assert process.stdout is not None
            while (frame := _read_ppm(process.stdout, len(frames), shown, limits)) is not None:
                frames.append(frame)
            status = process.wait()
        finally:
            process.kill()
            process.communicate()
        stderr.seek(0)
        complaint = stderr.read().decode("utf-8", "replace")
    check_not_killed(status, shown)
    # For a truncated Matroska file ffmpeg only prints this message.
    if status != 0 or "ended prematurely" in complaint or not frames:
        raise MediaError(
            f"{describe_broken_clip(path, shown, complaint)}; "
            "allowed: any container and codec that ffmpeg reads, unbroken"
        )
    return frames


def decoder_command(path: Path, *options: str) -> list[str]:
    """ffmpeg's command line up to its input file, which it decodes whole or not at all."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-loglevel", "error", "-nostdin"]
    # Only files: a disguised playlist must not make ffmpeg call other hosts.
    command += ["-protocol_whitelist", "file"]
    # By default ffmpeg accepts whatever part it can decode.
    return [*command, "-xerror", "-max_error_rate", "0", *options, "-i", f"file:{path.absolute()}"]


def check_not_killed(status: int, shown: str) -> None:
    """Raise ChildProcessError if ffmpeg was killed: the file is not at fault, and can be read again."""
    if status < 0:
        raise ChildProcessError(f"ffmpeg was killed by signal {-status} while it read {shown}")


def describe_broken_clip(path: Path, shown: str, complaint: str) -> str:
    """What is wrong with a clip, from its first bytes and ffmpeg's message."""
    with path.open("rb") as file:
        kind = describe_file_kind(file.read(SIGNATURE_BYTES))
    reason = re.sub(r" @ 0x[0-9a-f]+", "", complaint.replace(f"file:{path.absolute()}", shown))
    reason = " ".join(reason.split())[:300] or "no video in it"
    if kind is not None and kind not in CLIP_KINDS:
        reason = f"{kind}; {reason}"
    return f"{shown}: does not decode as a clip ({reason})"


def _read_ppm(stream: IO[bytes], index: int, shown: str, limits: MediaLimits) -> Image.Image | None:
    """One frame of ffmpeg's stream, which begins with its size; None at the stream's end."""
    if stream.readline() != b"P6\n":
        return None
    width, height = (int(part) for part in stream.readline().split())
    _check_clip(index + 1, width, height, shown, limits)
    stream.readline()
    data = stream.read(width * height * 3)
    if len(data) < width * height * 3:
        return None
    return Image.frombytes("RGB", (width, height), data)


def media_digest(source: Any) -> str:
    """SHA-256, as hex, of what decides an image or a clip: its encoded bytes, wherever they are.

    A PIL image, which has no encoded bytes, is digested by mode, size and pixels; a sequence by the digests
    of its members.

    Raises:
        MediaError: There is no such file.
        OSError: The storage failed for another reason.
    """
    digest = hashlib.sha256()
    if isinstance(source, Image.Image):
        digest.update(f"PIL {source.mode} {source.width}x{source.height}\n".encode())
        # The pixels of a palette image are indices, and an image is turned as its EXIF tag says.
        digest.update(bytes(source.getpalette() or b""))
        digest.update(str(_orientation(source)).encode())
        digest.update(source.tobytes())
    elif _is_sequence(source):
        digest.update(f"sequence of {len(source)}\n".encode())
        for member in source:
            digest.update(media_digest(member).encode())
    else:
        with _opened(source, _describe_source(source)) as file:
            update_digest(digest, file)
    return digest.hexdigest()


# ---------------------------------------------------------------------------------------------------------
# Sources


def _is_sequence(source: Any) -> bool:
    return isinstance(source, Sequence) and not isinstance(source, str | bytes | bytearray | memoryview)


def _describe_source(source: Any) -> str:
    """A source as messages name it: short, and a URI without user, password and signature."""
    if isinstance(source, Mapping):
        return _describe_source(source.get("path") or source.get("bytes"))
    if isinstance(source, Image.Image):
        return f"PIL image {source.width}x{source.height}"
    if isinstance(source, bytes | bytearray | memoryview):
        return f"{len(source)} bytes"
    if _is_sequence(source):
        return f"sequence of {len(source)} images"
    if not isinstance(source, str | os.PathLike):
        return type(source).__name__
    text = os.fsdecode(os.fspath(source))
    if is_inline(text):
        return f"{text[:30]}... ({len(text)} characters)"
    return _cut(uris.redact(text))


def _cut(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN // 2]}...{text[3 - MAX_SHOWN // 2 :]}"


def _decoder_message(error: Exception) -> str:
    # Pillow names the object that it read from, with an address that differs each time.
    return re.sub(r" <[^>]* at 0x[0-9a-f]+>", "", f"{type(error).__name__}: {error}")[:300]


def _decode_text(text: str, shown: str) -> str | bytes:
    """The bytes that a text holds itself; the text if it names a file."""
    try:
        return decode_inline(text) or text
    except ValueError as error:
        raise MediaError(f"{shown} is not allowed; allowed: {error}") from None


def _describe_cause(error: Exception, uri: str) -> str:
    """An error's message with a long name shortened."""
    name = uris.redact(uri)
    return str(error).replace(name, _cut(name))[-2 * MAX_SHOWN :]


@contextlib.contextmanager
def _opened(source: Any, shown: str) -> Iterator[IO[bytes]]:
    if isinstance(source, Mapping):
        source = source.get("bytes") if source.get("bytes") is not None else source.get("path")
    if isinstance(source, str):
        source = _decode_text(source, shown)
    if isinstance(source, bytes | bytearray | memoryview):
        yield io.BytesIO(source)
        return
    if not isinstance(source, str | os.PathLike):
        raise MediaError(f"{shown} is not allowed; allowed: a path, a URI, encoded bytes or PIL images")
    uri = os.fspath(source)
    if not isinstance(uri, str):
        raise MediaError(f"{shown}: a path of bytes is not allowed; allowed: a text")
    try:
        file = open_input(uri)
    except (FileNotFoundError, Refused, ValueError) as error:
        raise MediaError(f"{shown}: cannot be opened: {_describe_cause(error, uri)}") from error
    except StorageError as error:
        # What this machine's disk refuses (a folder, a missing permission) it will refuse again.
        if uris.is_local(uri):
            raise MediaError(f"{shown}: cannot be opened: {_describe_cause(error, uri)}") from error
        raise
    with file:
        try:
            yield file
        except (OSError, MediaError):
            raise
        except Refused as error:
            raise MediaError(f"{shown}: cannot be read: {str(error)[-200:]}") from error
        except Exception as error:  # noqa: BLE001
            # Clients of object stores have errors of their own, which may hold signed URLs.
            raise StorageError(f"cannot read {shown}: {type(error).__name__}") from None


def read_encoded(uri: str, *, is_clip: bool, limits: MediaLimits = MediaLimits()) -> bytes:
    """The whole file of an image or a clip, to be decoded later.

    Raises:
        MediaError: It is not a file, there is no such storage, or it is larger than images may be.
        FileNotFoundError: There is no such file.
        OSError: The storage failed for another reason; trying again may help.
    """
    shown = _describe_source(uri)
    try:
        if not is_clip:
            return _read_bytes(uri, shown, limits)
        with _opened(uri, shown) as file:
            return file.read()
    except MediaError as error:
        # The ledger distinguishes a missing file from a broken one.
        if isinstance(error.__cause__, FileNotFoundError):
            raise error.__cause__ from None
        raise


def _read_bytes(source: Any, shown: str, limits: MediaLimits) -> bytes:
    most = limits.image_bytes
    data = io.BytesIO()
    with _opened(source, shown) as file:
        # A server that does not say how much there is returns what has arrived, not all that was asked for.
        while block := file.read(most + 1 - data.tell()):
            data.write(block)
    if data.tell() > most:
        raise MediaError(f"{shown}: too large for an image; allowed: up to {most:,} bytes")
    return data.getvalue()


@contextlib.contextmanager
def _local_file(source: Any, shown: str) -> Iterator[Path]:
    """A file that ffmpeg can seek in, without the name of the source, by which ffmpeg would guess its kind.

    ffmpeg takes a text that is named .txt for a film. A local file is linked to, others are copied.
    """
    is_name = isinstance(source, os.PathLike) or (isinstance(source, str) and not is_inline(source))
    if is_name and os.path.isfile(source):
        with tempfile.TemporaryDirectory(prefix="vidgen-") as folder:
            link = Path(folder, "clip")
            link.symlink_to(os.path.abspath(source))
            yield link
        return
    with tempfile.NamedTemporaryFile(prefix="vidgen-") as copy:
        with _opened(source, shown) as file:
            shutil.copyfileobj(file, copy, BLOCK)
        copy.flush()
        yield Path(copy.name)
