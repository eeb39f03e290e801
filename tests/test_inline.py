"""Images and clips held in a text, from reading the text to messages about it."""

from __future__ import annotations

import base64
import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote_from_bytes

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.media.clips import smooth, write
from tests.media.odd_images import COLOURS, animated, colours, encoded
from vidgen_dist import media
from vidgen_dist.cli.assignments import read_pair
from vidgen_dist.errors import Refused
from vidgen_dist.inline import decode_inline, is_inline
from vidgen_dist.manifest import open_manifest
from vidgen_dist.manifest_build import build
from vidgen_dist.media import MediaError
from vidgen_dist.preflight.manifest_check import check_manifest
from vidgen_dist.preflight.sampling import check_sampling
from vidgen_dist.request import RenderRequest, RequestError
from vidgen_dist.spec import spec_from_flags

PNG = encoded(colours(), "PNG")
BARE = base64.b64encode(PNG).decode()

SPELLED: dict[str, Callable[[str], str]] = {
    "plain": lambda packed: f"data:image/png;base64,{packed}",
    "no type": lambda packed: f"data:;base64,{packed}",
    "parameters": lambda packed: f"data:image/png;charset=utf-8;name=a.png;base64,{packed}",
    "capitals": lambda packed: f"DATA:image/PNG;BASE64,{packed}",
    "lines": lambda packed: (
        "data:image/png;base64,\n" + "\r\n".join(packed[i : i + 76] for i in range(0, len(packed), 76))
    ),
    "no padding": lambda packed: f"data:image/png;base64,{packed.rstrip('=')}",
    "for URLs": lambda packed: f"data:image/png;base64,{packed.replace('+', '-').replace('/', '_')}",
    "percent": lambda packed: f"data:image/png;base64,{packed.replace('+', '%2B').replace('=', '%3D')}",
    "fragment": lambda packed: f"data:image/png;base64,{packed}#here",
    "bytes in percent": lambda packed: f"data:image/png,{quote_from_bytes(base64.b64decode(packed))}",
    "bare": lambda packed: packed,
    "bare, lines": lambda packed: f"{packed[:60]}\n{packed[60:]}\n",
}


@pytest.mark.parametrize("spelled", SPELLED)
def test_spellings(spelled: str) -> None:
    text = SPELLED[spelled](BARE)
    assert is_inline(text)
    assert decode_inline(text) == PNG
    assert RenderRequest(prompt="x", image=text).image == PNG
    assert np.array_equal(np.asarray(media.read_image(text)), COLOURS)
    assert media.media_digest(text) == media.media_digest(PNG)
    assert media.read_encoded(text, is_clip=False) == PNG


@given(st.binary(min_size=1, max_size=300))
def test_any_bytes(data: bytes) -> None:
    assert decode_inline(f"data:;base64,{base64.b64encode(data).decode()}") == data
    assert decode_inline(f"data:,{quote_from_bytes(data)}") == data


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "AVIF", "JPEG2000"])
def test_bare_base64_of_each_format(format: str) -> None:
    data = encoded(colours(), format)
    assert decode_inline(base64.b64encode(data).decode()) == data


def test_clips(tmp_path: Path) -> None:
    mp4 = write(smooth(3, 32, 32), tmp_path, "mp4").path.read_bytes()
    for data, count in ((mp4, 3), (animated("WEBP"), 2)):
        packed = base64.b64encode(data).decode()
        for text in (packed, f"data:video/mp4;base64,{packed}"):
            assert len(media.read_video(text)) == count
            assert RenderRequest(prompt="x", video=text).video == data


@pytest.mark.parametrize(
    "name",
    [
        "a.png", "/9j/4AAQ/photo.jpg", "iVBORw0KGgo", "data/a.png", "data", "R0lGOD.gif", "s3://b/data:x,y",
        "file:///data:,x", "/9j/" + "a" * 200 + ".png", "database:x",
    ],
)  # fmt: skip
def test_names_stay_names(name: str) -> None:
    assert not is_inline(name)
    assert RenderRequest(prompt="x", image=name).image == name


BROKEN = ["data:", "data:image/png", "data:image/png;base64,", "data:;base64,A", "data:;base64,%%%", "data:,",
          "data:image/png;base64," + "!" * 3000]  # fmt: skip


@pytest.mark.parametrize("text", BROKEN)
def test_data_that_cannot_be_read_is_refused_in_few_words(text: str) -> None:
    with pytest.raises(RequestError, match=r"image: 'data:.* a data: URI with a comma") as refused:
        RenderRequest(prompt="x", image=text)
    with pytest.raises(MediaError, match=r"^data:.* is not allowed; allowed: a data: URI") as unread:
        media.read_image(text)
    assert max(len(str(error.value)) for error in (refused, unread)) < 300


NO_IMAGE = base64.b64encode(b"no image at all, " * 300).decode()


@pytest.mark.parametrize("text", [NO_IMAGE, "x/" * 3000, f"data:image/png;base64,{NO_IMAGE}", "é" * 3000])
def test_no_message_shows_more_than_a_beginning(text: str) -> None:
    for read in (media.read_image, media.read_video):
        with pytest.raises(MediaError) as caught:
            read(text)
        message = str(caught.value)
        assert len(message) < 400
        assert text[60:140] not in message


# --- manifests ---------------------------------------------------------------------------------------


def manifest(folder: Path, images: list[str | None], **columns: list) -> str:
    rows = {"id": [f"row{n}" for n in range(len(images))], "prompt": ["x"] * len(images), "image": images}
    pq.write_table(pa.table(rows | columns), folder / "m.parquet")
    return str(folder / "m.parquet")


def test_rows_hold_their_images(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    uri = manifest(tmp_path, ["a.png", SPELLED["plain"](BARE), BARE, None])
    rows = list(open_manifest(uri).rows())
    assert [row.request.image for row in rows] == [str(tmp_path / "a.png"), PNG, PNG, None]
    assert check_manifest(uri, {}).ok


def test_check_counts_what_cannot_be_read_and_says_it_briefly(tmp_path: Path) -> None:
    uri = manifest(tmp_path, [BARE, *BROKEN, NO_IMAGE, f"data:image/png;base64,{NO_IMAGE}"])
    report = check_manifest(uri, {})
    assert report.counts == {"image": len(BROKEN) + 2}
    assert all(
        len(str(problem)) < 600 and NO_IMAGE[60:140] not in str(problem) for problem in report.problems
    )


def test_without_a_look_at_images_broken_texts_are_found(tmp_path: Path) -> None:
    """As a run does before it starts: by columns."""
    found = open_manifest(manifest(tmp_path, [BARE, "data:image/png", None, "a.png"]))
    (batch,) = found.batches()
    assert batch.plain.tolist() == [True, False, True, True]


def test_a_row_is_who_it_was_before(tmp_path: Path) -> None:
    """Ids of rows without one are of the row as it stands."""
    columns = {"prompt": ["x", "x"], "image": [SPELLED["plain"](BARE), BARE]}
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    assert len(set(open_manifest(tmp_path / "m.parquet").ids())) == 2


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_built_manifests_keep_the_text(suffix: str, tmp_path: Path) -> None:
    text = SPELLED["plain"](BARE)
    lines = {
        ".jsonl": json.dumps({"prompt": "x", "image": text}),
        ".csv": f'prompt,image\nx,"{text}"\n',
    }
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / f"rows{suffix}").write_text(lines[suffix])
    build([tmp_path / "in"], tmp_path / "m.parquet")
    assert pq.read_table(tmp_path / "m.parquet").column("image").to_pylist() == [text]
    (row,) = open_manifest(tmp_path / "m.parquet").rows()
    assert row.request.image == PNG


def test_a_run_has_no_image_in_its_run_yaml() -> None:
    flags = {"manifest.uri": "m", "output.uri": "o", "model.id": "n"}
    for text in (BARE, SPELLED["plain"](BARE)):
        with pytest.raises(Refused, match=r"sampling\.image: .* characters\) would go into") as refused:
            check_sampling(spec_from_flags({**flags, "sampling.image": text}))
        assert BARE[60:120] not in str(refused.value)


_PASS_OVER = """
import resource, sys
from vidgen_dist.manifest import open_manifest
found = open_manifest(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = sum(len(batch) for batch in found.batches())
print(rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_passing_over_rows_that_share_a_large_image_needs_little_memory(tmp_path: Path) -> None:
    text = "data:image/png;base64," + base64.b64encode(np.random.default_rng(0).bytes(3 * 2**20)).decode()
    shared = pa.DictionaryArray.from_arrays(pa.array([0] * 300, pa.int32()), pa.array([text]))
    columns = {"prompt": pa.array(["x"] * 300), "image": shared}
    pq.write_table(pa.table(columns), tmp_path / "m.parquet", store_schema=False)
    command = [sys.executable, "-c", _PASS_OVER, str(tmp_path / "m.parquet")]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    rows, kilobytes = map(int, ran.stdout.split())
    assert rows == 300
    # All of them at once are 1.2 GB.
    assert kilobytes < 500_000


def test_requests_with_bytes_are_the_same() -> None:
    request = RenderRequest(prompt="x", image=BARE)
    assert request == RenderRequest(prompt="x", image=PNG)
    assert dataclasses.replace(request, prompt="y").image == PNG


def test_a_long_setting_is_quoted_by_its_beginning() -> None:
    with pytest.raises(Refused) as refused:
        read_pair("--set", "a" * 5000)
    assert len(str(refused.value)) < 200
