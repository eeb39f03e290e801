"""Rewriting valid files that Pillow cannot read as they are; the pixels stay the same."""

from __future__ import annotations

import struct
import zlib

from vidgen_dist.media.file_signatures import AVIF_BRANDS, brands_of

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

# Optional chunks of a PNG that decide how it looks. The names of the chunks with palette and pixels begin
# with a capital (PNG 1.2, 3.3).
_PNG_KEPT = frozenset({b"tRNS", b"acTL", b"fcTL", b"fdAT", b"eXIf"})
_PNG_TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt"})
# Texts in which Pillow looks for the orientation.
_ORIENTATION_KEYS = frozenset({b"XML:com.adobe.xmp", b"Raw profile type exif"})
_MAX_ORIENTATION_BYTES = 2**24


def needs_rewrite(beginning: bytes) -> bool:
    """Whether a file with this beginning is of a kind that is rewritten."""
    return beginning.startswith(_PNG_SIGNATURE) or any(b in AVIF_BRANDS for b in brands_of(beginning))


def rewrite_image(data: bytes) -> bytes:
    """An encoded image in a form that Pillow reads; a file that is neither PNG nor AVIF stays as it is.

    A PNG loses its texts and colour profiles, which Pillow would unpack, and refuse if they are large. An
    AVIF file whose major brand is another one gets the brand of AVIF.
    """
    if data.startswith(_PNG_SIGNATURE):
        return _without_texts(data)
    if needs_rewrite(data) and data[8:12] not in AVIF_BRANDS:
        return _with_brand(data, b"avif")
    return data


def rewrite_animation(data: bytes) -> bytes:
    """Likewise; an AVIF file with a sequence also gets its brand, or only its still picture would be read."""
    if b"avis" in brands_of(data) and _has_box(data, b"moov"):
        return _with_brand(data, b"avis")
    return rewrite_image(data)


def _with_brand(data: bytes, major: bytes) -> bytes:
    return data[:8] + major + data[12:]


def _has_box(data: bytes, name: bytes) -> bool:
    """Whether a file of ISO boxes has a top-level box of this name."""
    at = 0
    while at + 8 <= len(data):
        size, found = struct.unpack_from(">I4s", data, at)
        if found == name:
            return True
        if size == 1 and at + 16 <= len(data):
            (size,) = struct.unpack_from(">Q", data, at + 8)
        if size < 8:
            return False
        at += size
    return False


def _without_texts(data: bytes) -> bytes:
    parts = [data[:8]]
    at = 8
    while at + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data) or not name.isalpha():
            break
        if name[:1].isupper() or name in _PNG_KEPT:
            parts.append(data[at:end])
        elif name in _PNG_TEXTS:
            parts.append(_orientation_text(name, data[at + 8 : end - 4]))
        at = end
    # Pillow reports what is truncated or damaged.
    parts.append(data[at:])
    return b"".join(parts)


def _orientation_text(name: bytes, content: bytes) -> bytes:
    """A text chunk that may hold the orientation, unpacked; nothing for any other chunk."""
    key, _, rest = content.partition(b"\0")
    if key not in _ORIENTATION_KEYS:
        return b""
    before, packed, text = b"", name == b"zTXt", rest
    if name == b"zTXt":
        text = rest[1:]
    elif name == b"iTXt":
        language, _, more = rest[2:].partition(b"\0")
        translated_key, _, text = more.partition(b"\0")
        before, packed = b"\0\0" + language + b"\0" + translated_key + b"\0", rest[:1] == b"\1"
    if packed:
        unpacking = zlib.decompressobj()
        try:
            text = unpacking.decompress(text, _MAX_ORIENTATION_BYTES)
        except zlib.error:
            return b""
        if unpacking.unconsumed_tail:
            return b""
    chunk = (b"iTXt" if name == b"iTXt" else b"tEXt") + key + b"\0" + before + text
    return struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
