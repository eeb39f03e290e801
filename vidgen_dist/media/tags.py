"""Tags of a file in the metadata of its format.

- mp4: keys of `moov/udta/meta`, written by ffmpeg from its own text format.
- png: one text chunk per tag, `tEXt` in Latin-1, else `iTXt`.
- gif: one comment extension with a JSON object.
- npy cannot hold tags.

In mp4 the label of GB 45438-2025 is one of the tags, as TC260's practice guide for videos asks. Its guide for
images asks for an XMP packet, which png and gif get in addition.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import escape

from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from vidgen_dist.media.decoding import MediaError, check_not_killed, decoder_command, describe_broken_clip
from vidgen_dist.provenance import AIGC

# What is allowed as a keyword of PNG, too.
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,78}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_FFMETADATA_SPECIAL = re.compile(r"([=;#\\])")
# A backslash escapes the next character, even a newline or another backslash.
_FFMETADATA_LINE = re.compile(r"((?:[^\\=\n]|\\.)+)=((?:[^\\\n]|\\.)*)", re.DOTALL)
_MP4_OWN = frozenset({"major_brand", "minor_version", "compatible_brands"})
_XMP = "XML:com.adobe.xmp"


def check_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags in the order in which they are written.

    Raises:
        ValueError: A key is not allowed in every format, or a value is empty or holds control characters or
            lone surrogates, which no format can hold.
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
    # ffmpeg continues a line after a trailing backslash, even an escaped one; a null byte ends any line.
    lines = [f"{key}=" + _FFMETADATA_SPECIAL.sub(r"\\\1", value) + "\0" for key, value in tags.items()]
    return "\n".join([";FFMETADATA1", *lines, ""]).encode()


def png_chunks(tags: Mapping[str, str]) -> PngInfo:
    """The tags as chunks for Pillow's `pnginfo`."""
    chunks = PngInfo()
    for key, value in tags.items():
        chunks.add_text(key, value)
    if AIGC in tags:
        chunks.add_itxt(_XMP, _xmp(tags[AIGC]))
    return chunks


def gif_comment(tags: Mapping[str, str]) -> bytes:
    """The tags as the text of a comment extension: JSON in ASCII."""
    return json.dumps(tags, separators=(",", ":")).encode()


def gif_label(tags: Mapping[str, str]) -> bytes:
    """The application extension with the label's XMP packet; empty without a label."""
    if AIGC not in tags:
        return b""
    # XMP part 3: the packet is in the extension without blocks. A reader that takes any of its bytes for the
    # length of a block is led to the end by the trailer.
    trailer = bytes([1, *range(255, -1, -1), 0])
    return b"!\xff\x0bXMP DataXMP" + _xmp(tags[AIGC]).encode() + trailer


def read_tags(path: Path, format: str) -> dict[str, str]:
    """The tags of a file, or for "png" of a folder's first frame, as `write_video` was given them.

    Args:
        path: Where it is, on this machine.
        format: One of `FORMATS`.

    Raises:
        MediaError: It cannot be read.
        FileNotFoundError: There is no such file.
        ChildProcessError: ffmpeg was killed; trying again may help.
    """
    if format == "npy":
        return {}
    if format == "mp4":
        return _read_ffmetadata(path)
    try:
        if format == "gif":
            with Image.open(path, formats=["GIF"]) as image:
                return dict(json.loads(image.info.get("comment", b"{}")))
        with PngImageFile(path / "000000.png") as frame:
            return {key: str(value) for key, value in frame.text.items() if key != _XMP}
    except FileNotFoundError:
        raise
    except Exception as error:  # decoders of foreign bytes raise whatever they please
        raise MediaError(f"{path.name}: its tags cannot be read ({type(error).__name__}: {error})") from error


def _read_ffmetadata(path: Path) -> dict[str, str]:
    # bitexact: otherwise ffmpeg adds its name to what it prints.
    command = [*decoder_command(path), "-fflags", "+bitexact", "-f", "ffmetadata", "pipe:1"]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, start_new_session=True, check=False
    )
    check_not_killed(done.returncode, path.name)
    if done.returncode != 0:
        raise MediaError(describe_broken_clip(path, path.name, done.stderr.decode("utf-8", "replace")))
    pairs = _FFMETADATA_LINE.findall(done.stdout.decode("utf-8", "replace"))
    tags = {key: re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL) for key, value in pairs}
    return {key: value for key, value in tags.items() if key not in _MP4_OWN}


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
