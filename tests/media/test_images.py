"""Images are read from every source; other files are refused."""

from __future__ import annotations

import io
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.media.clips import encoded, psnr, smooth, write
from vidgen_dist import media
from vidgen_dist.errors import Refused
from vidgen_dist.media import MediaError, MediaLimits
from vidgen_dist.storage.failures import StorageError
from vidgen_dist.storage.folder import open_storage


def test_an_image_from_every_kind_of_source(picture: Image.Image, tmp_path: Path) -> None:
    data = encoded(picture)
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    sources = [
        path, str(path), path.as_uri(), data, bytearray(data), picture,
        {"bytes": data, "path": None}, {"bytes": data, "path": "gone"}, {"bytes": None, "path": str(path)},
    ]  # fmt: skip
    for source in sources:
        image = media.read_image(source)
        assert image.mode == "RGB"
        assert np.array_equal(np.asarray(image), np.asarray(picture))


def test_image_and_clip_from_s3(picture: Image.Image, tmp_path: Path, s3_bucket: str) -> None:
    storage = open_storage(f"s3://{s3_bucket}/in")
    storage.write_bytes("picture.png", encoded(picture))
    assert np.array_equal(np.asarray(media.read_image(storage.uri("picture.png"))), np.asarray(picture))
    video = write(smooth(5, 16, 16), tmp_path, "mp4")
    storage.put_file(video.path, "clip.mp4")
    assert len(media.read_video(storage.uri("clip.mp4"))) == 5
    assert media.media_digest(storage.uri("clip.mp4")) == video.sha256
    with pytest.raises(MediaError, match=f"s3://{s3_bucket}/in/none.png: .*there is no such file"):
        media.read_image(storage.uri("none.png"))


def test_a_storage_that_fails_is_no_bad_image(monkeypatch: pytest.MonkeyPatch) -> None:
    class SlowDown(Exception):
        pass

    class Broken(io.BytesIO):
        def read(self, *_: object) -> bytes:
            raise SlowDown("https://bucket/key?X-Amz-Signature=secret")

    def refuse(_: str) -> io.BytesIO:
        raise StorageError("s3://bucket/key: 503")

    monkeypatch.setattr(media.decoding, "open_input", refuse)
    with pytest.raises(StorageError, match="503"):
        media.read_image("s3://bucket/key")
    monkeypatch.setattr(media.decoding, "open_input", lambda _: Broken())
    for read in (media.read_image, media.read_video, media.media_digest):
        with pytest.raises(StorageError, match=r"^cannot read s3://bucket/key: SlowDown$"):
            read("s3://bucket/key")


def test_exif_turns_and_alpha_goes(picture: Image.Image) -> None:
    exif = Image.Exif()
    exif[274] = 6
    turned = media.read_image(encoded(picture, exif=exif.tobytes()))
    assert turned.size == (picture.height, picture.width)
    assert np.array_equal(np.asarray(turned), np.rot90(np.asarray(picture), -1))
    transparent = picture.copy()
    transparent.putalpha(0)
    assert np.array_equal(np.asarray(media.read_image(encoded(transparent))), np.asarray(picture))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "RGBA"])
def test_every_mode_becomes_rgb(mode: str, picture: Image.Image) -> None:
    data = encoded(picture.convert(mode), "TIFF" if mode == "CMYK" else "PNG")
    assert media.read_image(data).mode == "RGB"


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "GIF", "BMP", "PPM", "TIFF"])
def test_formats_in(format: str, picture: Image.Image) -> None:
    assert psnr(np.asarray(media.read_image(encoded(picture, format))), np.asarray(picture)) > 22


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n%%EOF\n"


def test_bytes_that_are_no_image(picture: Image.Image) -> None:
    data = encoded(picture)
    broken = data[: len(data) * 2 // 3]
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 255
    for source in (b"", b"not an image", broken, bytes(flipped), data[:30], EPS):
        with pytest.raises(
            MediaError, match=f"^{len(source)} bytes: does not decode as an image .*allowed: JPEG"
        ):
            media.read_image(source)


def test_a_bomb_is_not_opened() -> None:
    header = bytearray(encoded(Image.new("L", (1, 1))))
    header[16:24] = (20_000).to_bytes(4, "big") + (8_000).to_bytes(4, "big")
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    with pytest.warns(Image.DecompressionBombWarning), pytest.raises(MediaError, match="20000x8000 pixels"):
        media.read_image(bytes(header))


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_deep_greys_are_not_cut_to_white(kind: type) -> None:
    deep = Image.fromarray(np.full((8, 8), 30_000, kind))
    with pytest.raises(MediaError, match="more than 8 bits"):
        media.read_image(deep)


def test_the_same_bad_image_gives_the_same_message() -> None:
    said = []
    for data in (b"<html>", b"<html>"):
        with pytest.raises(MediaError) as caught:
            media.read_image(data)
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert "cannot identify image file)" in said[0]


def test_a_huge_file_is_no_image(picture: Image.Image) -> None:
    with pytest.raises(MediaError, match="allowed: up to 100 bytes"):
        media.read_image(encoded(picture), MediaLimits(image_bytes=100))


@pytest.mark.parametrize("read", [media.read_image, media.read_video, media.media_digest])
def test_sources_that_cannot_be_opened(read: object, tmp_path: Path) -> None:
    cases = {
        str(tmp_path / "none"): "none: No such file",
        str(tmp_path): "Is a directory",
        "x" * 5000: r"x{57}: cannot be opened",
        "a\0b": "cannot be opened",
        "": "cannot be opened",
        "nowhere://x/y": "nowhere://x/y: cannot be opened",
        "s3://key:secret@bucket/x": "s3://bucket/x: cannot be opened",
        5: "int is not allowed; allowed: a path, a URI",
    }
    for source, message in cases.items():
        with pytest.raises(MediaError, match=message) as caught:
            read(source)  # type: ignore[operator]
        assert "secret" not in str(caught.value)
        assert len(str(caught.value)) < 1000
        assert not isinstance(caught.value, Refused)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_images_decode_or_are_refused(data: st.DataObject, picture: Image.Image) -> None:
    damaged = bytearray(
        encoded(picture, data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"])))
    )
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    # Anything but a MediaError fails the test.
    with suppress(MediaError):
        assert media.read_image(bytes(damaged)).mode == "RGB"
