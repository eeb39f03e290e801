"""Images and clips held in a text: `data:` URIs (RFC 2397), and base64 of a known kind of file."""

from __future__ import annotations

import base64
import re
from urllib.parse import unquote_to_bytes

# The base64 of the first bytes of JPEG, PNG, GIF, RIFF (WebP, AVI), TIFF, Matroska, JPEG 2000 and of other
# ISO boxes (AVIF, MP4).
_BEGINNINGS = "/9j/|iVBORw0KGgo|R0lGOD|UklGR|SUkqA|TU0AK|GkXfo|AAAADGpQ|AAAA.GZ0eX"
# No file name is that long without a dot, and hardly any image is shorter.
_SHORTEST = 100

PATTERN = rf"(?i)^data:|(?-i)^\s*({_BEGINNINGS})"
"""The beginnings of texts that may hold a file, as a regular expression of Arrow."""

_MAY_HOLD = re.compile(rf"(?i:data:)|\s*(?:{_BEGINNINGS})")
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_DATA = "a data: URI with a comma before its content, and after `;base64` nothing but base64"


def decode_inline(text: str) -> bytes | None:
    """The file that a text holds; None if the text names one, as a path does.

    Raises:
        ValueError: It is a `data:` URI that cannot be read; the message says what is allowed.
    """
    if not _MAY_HOLD.match(text):
        return None
    if text[:5].lower() != "data:":
        packed = "".join(text.split())
        return _decode_base64(packed) if len(packed) >= _SHORTEST else None
    header, comma, content = text.partition(",")
    if not comma:
        raise ValueError(_DATA)
    # What follows a `#` is not part of the content.
    data = unquote_to_bytes(content.partition("#")[0])
    if header.rpartition(";")[2].strip().lower() == "base64":
        packed = "".join(data.decode("latin-1").translate(_URL_SAFE).split())
        decoded = _decode_base64(packed)
        if decoded is None:
            raise ValueError(_DATA)
        data = decoded
    if not data:
        raise ValueError(f"{_DATA}; this one is empty")
    return data


def is_inline(text: str) -> bool:
    """Whether a text holds a file, or is meant to."""
    try:
        return decode_inline(text) is not None
    except ValueError:
        return True


_URL_SAFE = str.maketrans("-_", "+/")


def _decode_base64(packed: str) -> bytes | None:
    """The bytes of base64 without white space; None if it is not base64. The padding may be missing."""
    if not _BASE64.fullmatch(packed):
        return None
    bare = packed.rstrip("=")
    return None if len(bare) % 4 == 1 else base64.b64decode(bare + "=" * (-len(bare) % 4))
