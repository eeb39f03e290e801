"""The digest of images and clips."""

from __future__ import annotations

import hashlib
from pathlib import Path

from PIL import Image

from tests.media.clips import encoded
from vidgen_dist import media


def test_digest_is_of_the_bytes_wherever_they_lie(picture: Image.Image, tmp_path: Path) -> None:
    data = encoded(picture)
    (tmp_path / "a.png").write_bytes(data)
    expected = hashlib.sha256(data).hexdigest()
    for source in (
        data,
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        {"bytes": data},
        {"path": str(tmp_path / "a.png")},
    ):
        assert media.media_digest(source) == expected


def test_digest_of_pixels_and_sequences(picture: Image.Image) -> None:
    other = picture.copy()
    other.putpixel((3, 3), (1, 2, 3))
    recoloured = picture.convert("P")
    recoloured.putpalette(bytes(range(256)) * 3)
    turned = picture.copy()
    turned.getexif()[274] = 3
    sources = [
        picture, other, picture.convert("RGBA"), picture.convert("P"), recoloured, turned,
        Image.frombytes("RGB", (30, 80), picture.tobytes()),
        [picture], [picture, other], [other, picture], [picture, other, other],
    ]  # fmt: skip
    digests = [media.media_digest(source) for source in sources]
    assert len(set(digests)) == len(sources)
    assert media.media_digest((picture.copy(), other.copy())) == media.media_digest([picture, other])
