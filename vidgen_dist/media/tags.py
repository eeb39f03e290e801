"""Tags of a file in the metadata of its format.

- mp4: keys of `moov/udta/meta`, written by ffmpeg from its own text format.
- png: a text chunk each, `tEXt` in Latin-1, else `iTXt`.
- gif: one comment extension with a JSON object.
- npy has no place for any.

The label of GB 45438-2025 is among them in mp4, where TC260's practice guide for videos wants it; its guide
for images has it in an XMP packet, which png and gif get besides.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from xml.sax.saxutils import escape

from PIL.PngImagePlugin import PngInfo

from vidgen_dist.provenance import AIGC

# What is a keyword of PNG, too.
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,78}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_FFMETADATA_SPECIAL = re.compile(r"([=;#\\])")


def check_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags in the order in which they are written.

    Raises:
        ValueError: A key that is none in every format, or a value that is empty or holds control characters
            or lone surrogates, which no format carries.
    """
    for key, value in tags.items():
        if not _KEY.fullmatch(key):
            raise ValueError(
                f"tag {key!r} is not allowed; allowed: 1 to 79 of A-Z, a-z, 0-9, '_', '.' and '-'"
            )
        if not value or _CONTROL.search(value):
            raise ValueError(
                f"tag {key}: {value[:100]!r} is not allowed; allowed: a text without control characters"
            )
    return dict(sorted(tags.items()))


def ffmetadata(tags: Mapping[str, str]) -> bytes:
    """The tags in the text format that ffmpeg reads metadata from."""
    # ffmpeg reads on after a backslash at a line's end, also an escaped one; a null byte ends any line.
    lines = [f"{key}=" + _FFMETADATA_SPECIAL.sub(r"\\\1", value) + "\0" for key, value in tags.items()]
    return "\n".join([";FFMETADATA1", *lines, ""]).encode()


def png_chunks(tags: Mapping[str, str]) -> PngInfo:
    """The tags as chunks for Pillow's `pnginfo`."""
    chunks = PngInfo()
    for key, value in tags.items():
        chunks.add_text(key, value)
    if AIGC in tags:
        chunks.add_itxt("XML:com.adobe.xmp", _xmp(tags[AIGC]))
    return chunks


def gif_comment(tags: Mapping[str, str]) -> bytes:
    """The tags as the text of a comment extension: JSON in ASCII."""
    return json.dumps(tags, separators=(",", ":")).encode()


def gif_label(tags: Mapping[str, str]) -> bytes:
    """The application extension with the label's XMP packet; nothing if there is none."""
    if AIGC not in tags:
        return b""
    # XMP part 3: the packet lies bare in the extension; from wherever in it a reader takes a byte for the
    # length of a block, the trailer leads it to the end.
    trailer = bytes([1, *range(255, -1, -1), 0])
    return b"!\xff\x0bXMP DataXMP" + _xmp(tags[AIGC]).encode() + trailer


def _xmp(label: str) -> str:
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:TC260="http://www.tc260.org.cn/ns/AIGC/1.0/">'
        f"<TC260:AIGC>{escape(label)}</TC260:AIGC>"
        "</rdf:Description></rdf:RDF></x:xmpmeta>"
        '<?xpacket end="r"?>'
    )
