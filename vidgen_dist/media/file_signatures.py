"""Naming a file that is not an image by its first bytes, for messages."""

from __future__ import annotations

SIGNATURE_BYTES = 512
"""Bytes at the start of a file that identify it."""

_BOXES = "it is a video (MP4 or QuickTime)"
_MATROSKA = "it is a video (Matroska or WebM)"
CLIP_KINDS = (_BOXES, _MATROSKA)
"""The descriptions of clips."""

_HTML = "it is HTML, perhaps a server's error page"
_SVG = "it is SVG, a drawing without pixels"
_TEXT = frozenset(b"\t\r\n" + bytes(range(32, 127)))
AVIF_BRANDS = (b"avif", b"avis")
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")

_MAGIC = (
    (b"%PDF", "it is a PDF"),
    (b"%!PS", "it is PostScript"),
    (b"8BPS", "it is a Photoshop file"),
    (b"\0\0\1\0", "it is an icon (ICO)"),
    (b"DDS ", "it is a DirectDraw surface (DDS)"),
    (b"\xff\x0a", "it is JPEG XL"),
    (b"\0\0\0\x0cJXL ", "it is JPEG XL"),
    (b"\x1a\x45\xdf\xa3", _MATROSKA),
    (b"PK\3\4", "it is a ZIP archive"),
    (b"\x1f\x8b", "it is compressed by gzip"),
    (b"\x93NUMPY", "it is a NumPy array"),
    (b"PAR1", "it is a Parquet file"),
    (b"version https://git-lfs.", "it is a pointer of Git LFS, the file was not pulled"),
)


def describe_file_kind(data: bytes) -> str | None:
    """What a file is, for a message; None if it is not known, as with a damaged image.

    Args:
        data: The file's first `SIGNATURE_BYTES` bytes, or all of a shorter one.
    """
    if not data:
        return "it is empty"
    for magic, kind in _MAGIC:
        if data.startswith(magic):
            return kind
    return _describe_boxes(data) if data[4:8] == b"ftyp" else _describe_text(data)


def brands_of(data: bytes) -> tuple[bytes, ...]:
    """The brands of a file of ISO boxes (ISO/IEC 14496-12), the major one first; none for any other file.

    Args:
        data: The file's first `SIGNATURE_BYTES` bytes, or more.
    """
    if data[4:8] != b"ftyp":
        return ()
    end = min(max(16, int.from_bytes(data[:4], "big")), SIGNATURE_BYTES)
    return (data[8:12], *(data[at : at + 4] for at in range(16, end, 4)))


def is_heif(data: bytes) -> bool:
    """Whether a file with this beginning holds pictures in ISO boxes (ISO/IEC 23008-12): AVIF or HEIC."""
    return any(brand in (*AVIF_BRANDS, *_HEIC_BRANDS) for brand in brands_of(data))


def _describe_boxes(data: bytes) -> str | None:
    brands = brands_of(data)
    if any(brand in AVIF_BRANDS for brand in brands):
        return None
    return "it is HEIC" if is_heif(data) else _BOXES


def _describe_text(data: bytes) -> str | None:
    text = data.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return _HTML
    if text.startswith((b"<?xml", b"<svg")):
        return _SVG if b"<svg" in text else "it is XML, perhaps a storage's error message"
    return "it is text" if all(byte in _TEXT for byte in text) else None
