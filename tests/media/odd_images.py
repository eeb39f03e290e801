"""Unusual images, each made on demand: those that are read, and those that are refused and why."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageCms

WIDTH, HEIGHT = 24, 16
_ROWS, _COLUMNS = np.mgrid[0:HEIGHT, 0:WIDTH]
COLOURS = np.stack([_COLUMNS * 6 + 50, _ROWS * 9 + 50, (_ROWS + _COLUMNS) * 4 + 40], -1).astype(np.uint8)
GREYS = np.broadcast_to((_COLUMNS * 10)[..., None], COLOURS.shape).astype(np.uint8)
# 16 bits whose low byte is not the high one's copy, so that rounding would be seen.
DEEP = (GREYS[..., 0].astype(np.uint16) << 8) + 200

Make = Callable[[], bytes]


def colours() -> Image.Image:
    """A picture that is not symmetric and changes slowly, for lossy formats."""
    return Image.fromarray(COLOURS)


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    """A file's content."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def turned(orientation: Any, format: str, image: Image.Image | None = None, **options: Any) -> bytes:
    """A file whose EXIF has an orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image or colours(), format, exif=exif, **options)


def animated(format: str, **options: Any) -> bytes:
    """Two frames, the second one upside down."""
    later = [colours().rotate(180)]
    return encoded(colours(), format, save_all=True, append_images=later, **options)


def _palette(transparency: Any) -> bytes:
    # Few enough colours for a palette to hold them as they are.
    return encoded(Image.fromarray(GREYS).quantize(WIDTH), "PNG", transparency=transparency)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(values: np.ndarray, colour_type: int, *more: tuple[bytes, bytes], size: Any = None) -> bytes:
    """A PNG of 8 or 16 bits, of kinds that Pillow does not write.

    Args:
        values: (height, width, channels).
        colour_type: 0 grey, 2 colours, 4 grey with alpha.
        more: Chunks between header and pixels.
        size: Width and height that the header claims.
    """
    height, width = values.shape[:2]
    depth = values.dtype.itemsize * 8
    header = struct.pack(">IIBBBBB", *(size or (width, height)), depth, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(row.dtype.newbyteorder(">")).tobytes() for row in values)
    chunks = [(b"IHDR", header), *more, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)


def tiff(strip: bytes, bits: int, photometric: int) -> bytes:
    """A little-endian TIFF of one grey channel; `photometric` 0 says that 0 is white."""
    tags = {256: WIDTH, 257: HEIGHT, 258: bits, 259: 1, 262: photometric, 277: 1, 278: HEIGHT}
    tags |= {273: 8 + 2 + 9 * 12 + 4, 279: len(strip)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + strip


def _twelve_bits() -> bytes:
    pairs = (DEEP >> 4).reshape(-1, 2).astype(np.uint32)
    whole = (pairs[:, 0] << 12) | pairs[:, 1]
    return b"".join(int(value).to_bytes(3, "big") for value in whole)


def _lab() -> bytes:
    profiles = [ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")]
    return encoded(
        ImageCms.applyTransform(colours(), ImageCms.buildTransform(*profiles, "RGB", "LAB")), "TIFF"
    )


def _clear() -> Image.Image:
    image = colours()
    image.putalpha(0)
    return image


def _xmp() -> bytes:
    text = b"XML:com.adobe.xmp\0\0\0\0\0" + b'<x:xmpmeta tiff:Orientation="3"/>'
    return png(COLOURS[::-1, ::-1], 2, (b"iTXt", text))


def _packed_xmp() -> bytes:
    """As Photoshop writes it: megabytes, with the orientation in a few bytes at the end."""
    text = zlib.compress(b"<x:xmpmeta>" + b"<history/>" * 200_000 + b'<a tiff:Orientation="3"/></x:xmpmeta>')
    return png(COLOURS[::-1, ::-1], 2, (b"iTXt", b"XML:com.adobe.xmp\0\1\0en\0key\0" + text))


def _packed_exif() -> bytes:
    """As ImageMagick writes it."""
    exif = Image.Exif()
    exif[0x0112] = 3
    data = exif.tobytes()
    text = f"\nexif\n{len(data):8}\n{data.hex()}\n".encode()
    return png(COLOURS[::-1, ::-1], 2, (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text)))


def _text_at_the_end() -> bytes:
    whole = png(COLOURS, 2)
    return whole[:-12] + _chunk(b"zTXt", b"Comment\0\0" + _BLOWN_UP) + whole[-12:]


def named(data: bytes, brand: bytes) -> bytes:
    """A file of ISO boxes with another first brand."""
    return data[:8] + brand + data[12:]


_BLOWN_UP = zlib.compress(bytes(2**21))


DEEP_COLOURS = np.repeat(DEEP[..., None], 3, -1)

READ: dict[str, tuple[Make, np.ndarray]] = {
    "rgba": (lambda: encoded(colours().convert("RGBA"), "PNG"), COLOURS),
    "clear": (lambda: encoded(_clear(), "PNG"), COLOURS),
    "grey alpha": (lambda: encoded(Image.fromarray(GREYS).convert("LA"), "PNG"), GREYS),
    "palette, one clear": (lambda: _palette(3), GREYS),
    "palette, alpha of each": (lambda: _palette(bytes(range(WIDTH))), GREYS),
    "clear colour": (lambda: encoded(colours(), "PNG", transparency=(0, 0, 0)), COLOURS),
    "one bit": (lambda: encoded(Image.fromarray(GREYS).point(lambda v: 255 * (v > 99)).convert("1"), "PNG"),
                255 * (GREYS > 99)),
    "fax": (lambda: encoded(Image.fromarray(GREYS).point(lambda v: 255 * (v > 99)).convert("1"), "TIFF",
                            compression="group4"), 255 * (GREYS > 99)),
    "cmyk": (lambda: encoded(colours().convert("CMYK"), "TIFF"), COLOURS),
    "cmyk of Adobe": (lambda: encoded(colours().convert("CMYK"), "JPEG", quality=95), COLOURS),
    "ycbcr": (lambda: encoded(colours().convert("YCbCr"), "TIFF"), COLOURS),
    "lab": (_lab, COLOURS),
    "16-bit colours": (lambda: png(DEEP_COLOURS, 2), GREYS),
    "16-bit grey": (lambda: png(DEEP[..., None], 0), GREYS),
    "16-bit grey, one clear": (lambda: png(DEEP[..., None], 0, (b"tRNS", b"\0\1")), GREYS),
    "16-bit grey alpha": (lambda: png(np.stack([DEEP, DEEP // 2], -1), 4), GREYS),
    "16-bit tiff": (lambda: encoded(Image.fromarray(DEEP), "TIFF"), GREYS),
    "16-bit tiff, big end": (lambda: encoded(Image.fromarray(DEEP.astype(">u2")), "TIFF"), GREYS),
    "16-bit tiff, squeezed": (lambda: encoded(Image.fromarray(DEEP), "TIFF", compression="tiff_lzw"), GREYS),
    "16-bit tiff, 0 is white": (lambda: tiff((~DEEP).astype("<u2").tobytes(), 16, 0), GREYS),
    "12-bit tiff": (lambda: tiff(_twelve_bits(), 12, 1), GREYS),
    "16-bit jpeg 2000": (lambda: encoded(Image.fromarray(DEEP), "JPEG2000"), GREYS),
    "16-bit pgm": (lambda: b"P5 %d %d 65535\n" % (WIDTH, HEIGHT) + DEEP.astype(">u2").tobytes(), GREYS),
    "10-bit pgm": (lambda: b"P5 %d %d 1023\n" % (WIDTH, HEIGHT) + (DEEP >> 6).astype(">u2").tobytes(), GREYS),
    "gif": (lambda: animated("GIF"), COLOURS),
    "webp": (lambda: animated("WEBP", lossless=True), COLOURS),
    "apng": (lambda: animated("PNG"), COLOURS),
    "avif": (lambda: animated("AVIF", quality=95), COLOURS),
    "pages": (lambda: animated("TIFF"), COLOURS),
    "mpo": (lambda: animated("MPO", quality=95), COLOURS),
    "unknown turn": (lambda: turned(99, "PNG"), COLOURS),
    "exif that is none": (lambda: encoded(colours(), "PNG", exif=b"Exif\0\0garbage"), COLOURS),
    "exif of 60 KB": (lambda: turned(1, "JPEG", comment=b"x" * 60_000, quality=95), COLOURS),
    "turned by xmp": (_xmp, COLOURS),
    "turned by xmp of 2 MB": (_packed_xmp, COLOURS),
    "turned by packed exif": (_packed_exif, COLOURS),
    "text of 2 MiB": (lambda: png(COLOURS, 2, (b"zTXt", b"Comment\0\0" + _BLOWN_UP)), COLOURS),
    "other text of 2 MiB": (lambda: png(COLOURS, 2, (b"iTXt", b"Comment\0\1\0\0\0" + _BLOWN_UP)), COLOURS),
    "text of 2 MiB at the end": (_text_at_the_end, COLOURS),
    "texts of 65 MiB": (lambda: png(COLOURS, 2, (b"tEXt", b"Comment\0" + b" " * 65 * 2**20)), COLOURS),
    "xmp blown up": (lambda: png(COLOURS, 2, (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" +
                                 zlib.compress(bytes(2**26)))), COLOURS),
    "text that is not packed": (lambda: png(COLOURS, 2, (b"zTXt", b"Raw profile type exif\0\0x")), COLOURS),
    "text without an end": (lambda: png(COLOURS, 2, (b"iTXt", b"XML:com.adobe.xmp")), COLOURS),
    "profile of 2 MiB": (lambda: png(COLOURS, 2, (b"iCCP", b"p\0\0" + _BLOWN_UP)), COLOURS),
    "avif, another brand first": (lambda: named(encoded(colours(), "AVIF", quality=95), b"miaf"), COLOURS),
}  # fmt: skip


def _noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))


def _claims(data: bytes, at: int, layout: str) -> bytes:
    return data[:at] + struct.pack(layout, 50_000, 50_000) + data[at + struct.calcsize(layout) :]


def _huge_jpeg() -> bytes:
    data = encoded(colours(), "JPEG")
    return _claims(data, data.index(b"\xff\xc0") + 5, ">HH")


def _boxes(brand: bytes) -> bytes:
    return struct.pack(">I", 24) + b"ftyp" + brand + bytes(4) + b"mif1" + brand + bytes(64)


_TOO_LARGE = "allowed: up to 89,478,485 pixels"

REFUSED: dict[str, tuple[Make, str]] = {
    "cut jpeg": (lambda: encoded(_noise(), "JPEG")[:-500], "truncated"),
    "cut png": (lambda: encoded(_noise(), "PNG")[:-500], "truncated"),
    "cut webp": (lambda: encoded(_noise(), "WEBP")[:-500], "does not decode as an image"),
    "huge png": (lambda: png(COLOURS, 2, size=(50_000, 50_000)), _TOO_LARGE),
    "large png": (lambda: png(COLOURS, 2, size=(10_000, 10_000)), f"10000x10000 pixels; {_TOO_LARGE}"),
    "huge jpeg": (_huge_jpeg, _TOO_LARGE),
    "huge gif": (lambda: _claims(encoded(colours(), "GIF"), 6, "<HH"), _TOO_LARGE),
    "huge bmp": (lambda: _claims(encoded(colours(), "BMP"), 18, "<ii"), _TOO_LARGE),
    "32-bit whole": (lambda: encoded(Image.fromarray(DEEP.astype(np.int32)), "TIFF"), "mode I, 32 bits"),
    "32-bit real": (lambda: encoded(Image.fromarray(DEEP.astype(np.float32)), "TIFF"), "mode F, 32 bits"),
    "nothing": (lambda: b"", "it is empty"),
    "html": (lambda: b"\n<!DOCTYPE html><html>404", "it is HTML"),
    "html in small": (lambda: b"<html><body>", "it is HTML"),
    "xml": (lambda: b'<?xml version="1.0"?><Error><Code>NoSuchKey', "it is XML"),
    "svg": (lambda: b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "it is SVG"),
    "pdf": (lambda: b"%PDF-1.7\n%\xe2\xe3", "it is a PDF"),
    "heic": (lambda: _boxes(b"heic"), "it is HEIC"),
    "mp4": (lambda: _boxes(b"isom").replace(b"mif1", b"mp42"), "it is a video"),
    "jpeg xl": (lambda: b"\xff\x0a" + bytes(64), "it is JPEG XL"),
    "git lfs": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7\nsize 5\n", "Git LFS"),
    "json": (lambda: b'{"error": "expired"}', "it is text"),
    "icon": (lambda: encoded(colours(), "ICO"), "it is an icon"),
    "damaged": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(64), "cannot identify image file"),
}  # fmt: skip
