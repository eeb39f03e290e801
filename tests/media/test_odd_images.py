"""Unusual images are read as Pillow's users expect, or refused with a reason."""

from __future__ import annotations

import io
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.media import odd_images
from tests.media.odd_images import (
    COLOURS,
    DEEP,
    GREYS,
    HEIGHT,
    READ,
    REFUSED,
    WIDTH,
    animated,
    encoded,
    named,
)
from tests.web_servers import QuietHandler, WebServer
from vidgen_dist import media
from vidgen_dist.families.common.rendering import to_pixels
from vidgen_dist.media import MediaError, MediaLimits
from vidgen_dist.storage.failures import StorageError

# Pillow's own, which `media.ignore_warnings` turns off where manifests are read.
pytestmark = [
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
    pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning"),
]

TOLERANCE = 12
"""Of 255: what JPEG, AVIF and the ways between colour spaces lose of a picture that changes slowly."""

# How an upright picture is stored for each value of the tag (EXIF 2.32, 4.6.4 A): 6 has its top at the right.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
QUALITY = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}, "AVIF": {"quality": 95}}


def assert_shows(image: Image.Image, expected: np.ndarray) -> None:
    assert image.mode == "RGB"
    assert image.size == (WIDTH, HEIGHT)
    np.testing.assert_allclose(np.asarray(image, np.int16), expected, atol=TOLERANCE)


@pytest.mark.parametrize("kind", READ)
def test_what_is_read(kind: str) -> None:
    make, expected = READ[kind]
    assert_shows(media.read_image(make()), expected)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused(kind: str) -> None:
    make, reason = REFUSED[kind]
    with pytest.raises(MediaError) as caught:
        media.read_image({"bytes": make(), "path": "of/the/row.jpg"})
    assert str(caught.value).startswith("of/the/row.jpg: ")
    assert reason in str(caught.value)
    assert "allowed: " in str(caught.value)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "MPO"])
def test_images_are_turned_upright_once(format: str, orientation: int) -> None:
    method = STORED[orientation]
    stored = odd_images.colours() if method is None else odd_images.colours().transpose(method)
    data = odd_images.turned(orientation, format, stored, **QUALITY.get(format, {}))
    assert_shows(media.read_image(data), COLOURS)


def test_a_squeezed_tiff_is_turned_once() -> None:
    stored = odd_images.colours().transpose(STORED[6])
    assert_shows(media.read_image(odd_images.turned(6, "TIFF", stored, compression="tiff_lzw")), COLOURS)


def test_deep_greys_are_read_as_deep_colours_are() -> None:
    ramp = np.arange(0, 2**16, 7, np.uint16)[None, :, None]
    grey = media.read_image(odd_images.png(ramp, 0))
    colour = media.read_image(odd_images.png(np.repeat(ramp, 3, -1), 2))
    np.testing.assert_array_equal(np.asarray(grey), np.asarray(colour))
    assert np.asarray(grey).max() == 255


def test_a_pil_image_is_left_as_it_is() -> None:
    image = Image.fromarray(GREYS).quantize(WIDTH)
    image.info["transparency"] = bytes(range(WIDTH))
    before = media.media_digest(image)
    assert_shows(media.read_image(image), GREYS)
    assert media.media_digest(image) == before
    assert image.info["transparency"] == bytes(range(WIDTH))
    assert_shows(media.read_image(Image.fromarray(DEEP)), GREYS)


def test_exif_that_cannot_be_read_has_a_digest() -> None:
    image = Image.open(io.BytesIO(READ["exif that is none"][0]()))
    assert media.media_digest(image) == media.media_digest(odd_images.colours())


@pytest.mark.parametrize("size", [(1, 1), (20_000, 1), (1, 20_000), (20_000, 300)])
def test_sizes_at_the_ends(size: tuple[int, int]) -> None:
    image = media.read_image(encoded(Image.new("RGB", size, (255, 0, 51)), "PNG"))
    assert image.size == size
    pixels = to_pixels([image], 32, 48)
    assert pixels.shape == (1, 3, 1, 32, 48)
    np.testing.assert_allclose(pixels[0, :, 0, 5, 7], [1, -1, -0.6], atol=1e-6)


@pytest.mark.parametrize("ignored", [False, True])
def test_warnings_of_pillow_are_not_of_each_row(ignored: bool) -> None:
    cut_exif = encoded(odd_images.colours(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\5\0\x12\1\3\0")
    with warnings.catch_warnings(record=True) as caught_warnings:
        warnings.resetwarnings()
        if ignored:
            media.ignore_warnings()
        for data in (READ["palette, alpha of each"][0](), cut_exif):
            media.read_image(data)
        with pytest.raises(MediaError, match="10000x10000"):
            media.read_image(REFUSED["large png"][0]())
    categories = [warning.category for warning in caught_warnings]
    assert categories == ([] if ignored else [UserWarning, Image.DecompressionBombWarning])


# --- clips -------------------------------------------------------------------------------------------


CLIPS = {
    "gif": lambda: animated("GIF"),
    "png": lambda: animated("PNG"),
    "png, a text of 2 MiB": lambda: animated("PNG", pnginfo=_with_text()),
    "webp": lambda: animated("WEBP", lossless=True),
    "tiff": lambda: animated("TIFF"),
    "mpo": lambda: animated("MPO", quality=95),
    "avif": lambda: animated("AVIF", quality=95),
    **{
        f"avif, {brand} first": lambda brand=brand: named(animated("AVIF", quality=95), brand.encode())
        for brand in ("avif", "mif1", "msf1", "miaf", "iso8")
    },
}


def _with_text() -> PngInfo:
    info = PngInfo()
    info.add_text("Comment", "x" * 2**21, zip=True)
    return info


@pytest.mark.parametrize("kind", CLIPS)
def test_an_animation_is_a_clip_of_all_its_frames(kind: str) -> None:
    data = CLIPS[kind]()
    first, second = media.read_video(data)
    assert_shows(first, COLOURS)
    assert_shows(second, COLOURS[::-1, ::-1])
    assert_shows(media.read_image(data), COLOURS)


def test_frames_count_once_however_long_they_are_shown() -> None:
    assert len(media.read_video(animated("WEBP", lossless=True, duration=[40, 2000]))) == 2


def test_the_picture_for_viewers_of_still_ones_is_no_frame() -> None:
    poster = Image.new("RGB", (WIDTH, HEIGHT))
    frames = [odd_images.colours(), odd_images.colours().rotate(180)]
    data = encoded(poster, "PNG", save_all=True, default_image=True, append_images=frames)
    first, second = media.read_video(data)
    assert_shows(first, COLOURS)
    assert_shows(second, COLOURS[::-1, ::-1])
    assert media.read_image(data).getextrema() == ((0, 0),) * 3


def test_pages_of_several_sizes_are_no_clip() -> None:
    data = encoded(odd_images.colours(), "TIFF", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    with pytest.raises(MediaError, match="frame 1 is 8x8; allowed: 24x16 as frame 0"):
        media.read_video(data)


@pytest.mark.parametrize("kind", ["gif", "png", "webp", "avif", "avif, avif first", "tiff"])
@pytest.mark.parametrize("share", [0.1, 0.4, 0.6, 0.8, 0.9])
def test_an_animation_cut_short_is_no_shorter_clip(kind: str, share: float) -> None:
    data = CLIPS[kind]()
    with pytest.raises(MediaError, match="does not decode"):
        media.read_video(data[: int(share * len(data))])


def test_deep_greys_of_a_clip_are_not_cut_to_white() -> None:
    (frame,) = media.read_video(READ["16-bit grey"][0]())
    assert_shows(frame, GREYS)


@pytest.mark.parametrize(
    "kind", ["huge png", "large png", "huge gif", "nothing", "html", "pdf", "git lfs", "heic"]
)
def test_what_is_no_clip(kind: str) -> None:
    make, reason = REFUSED[kind]
    with pytest.raises(MediaError, match=f"^[0-9]+ bytes: .*{reason}"):
        media.read_video(make())


# --- files -------------------------------------------------------------------------------------------


LARGE = encoded(Image.effect_noise((500, 500), 99), "PNG")


class _Answer(QuietHandler):
    """A web server as most are: an error page for what is not there, and one that claims to be well."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/chunked.png":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for first in range(0, len(LARGE), 50_000):
                part = LARGE[first : first + 50_000]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
                time.sleep(0.01)
            self.wfile.write(b"0\r\n\r\n")
            return
        statuses = {"/good.png": 200, "/page.png": 200, "/forbidden.png": 403}
        body = READ["rgba"][0]() if self.path.startswith("/good.png") else REFUSED["html"][0]()
        self.send_response(statuses.get(self.path.partition("?")[0], 404))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with WebServer(_Answer) as server:
        yield server.address


def test_images_of_a_web_server(server: str) -> None:
    assert_shows(media.read_image(f"{server}/good.png?token=secret"), COLOURS)
    assert media.read_encoded(f"{server}/good.png", is_clip=False) == READ["rgba"][0]()
    with pytest.raises(MediaError, match=r"/page\.png: does not decode as an image \(it is HTML"):
        media.read_image(f"{server}/page.png?token=secret")
    with pytest.raises(MediaError, match=r"/none\.png: cannot be opened") as caught:
        media.read_image(f"{server}/none.png?token=secret")
    assert "secret" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"/none\.png"):
        media.read_encoded(f"{server}/none.png", is_clip=False)
    # A server may allow tomorrow what it forbids today.
    with pytest.raises(StorageError, match="403"):
        media.read_encoded(f"{server}/forbidden.png", is_clip=False)


def test_an_image_of_a_server_that_does_not_say_its_size(server: str) -> None:
    assert media.read_image(f"{server}/chunked.png").size == (500, 500)
    for is_clip in (False, True):
        assert media.read_encoded(f"{server}/chunked.png", is_clip=is_clip) == LARGE


@pytest.mark.parametrize("is_clip", [False, True])
def test_files_that_a_row_names(is_clip: bool, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"whole")
    assert media.read_encoded(str(tmp_path / "a.png"), is_clip=is_clip) == b"whole"
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        media.read_encoded(str(tmp_path / "none.png"), is_clip=is_clip)
    for uri, reason in {str(tmp_path): "Is a directory", "nowhere://x/y": "Protocol not known"}.items():
        with pytest.raises(MediaError, match=f"^{uri}: cannot be opened.*{reason}"):
            media.read_encoded(uri, is_clip=is_clip)


def test_a_huge_file_is_not_read_as_an_image(tmp_path: Path) -> None:
    limits = MediaLimits(image_bytes=100)
    (tmp_path / "film.mp4").write_bytes(bytes(101))
    with pytest.raises(MediaError, match=r"film\.mp4: too large for an image; allowed: up to 100 bytes"):
        media.read_encoded(str(tmp_path / "film.mp4"), is_clip=False, limits=limits)
    assert len(media.read_encoded(str(tmp_path / "film.mp4"), is_clip=True, limits=limits)) == 101


def test_a_name_that_is_no_unicode(tmp_path: Path) -> None:
    path = tmp_path / b"f\xfcchsin.png".decode("utf-8", "surrogateescape")
    path.write_bytes(READ["rgba"][0]())
    assert_shows(media.read_image(path), COLOURS)
    path.write_bytes(b"")
    with pytest.raises(MediaError, match=r"chsin\.png: does not decode as an image \(it is empty"):
        media.read_image(path)
