"""A row's id is in its column or is a digest of the request, which stays the same in later releases."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.manifest.parquet import request_of, rows_of, write
from vidgen_dist.manifest import column_of, open_manifest, row_digest
from vidgen_dist.request import FIELDS


def test_ids_are_the_column_or_a_digest(tmp_path: Path) -> None:
    manifest = open_manifest(write(tmp_path / "m.parquet", {"prompt": ["p", "q"], "id": ["one", None]}))
    named, unnamed = rows_of(manifest)
    assert named.id == "one"
    assert unnamed.id == row_digest({"prompt": "q"})
    assert request_of(unnamed).id == unnamed.id
    assert list(manifest.ids()) == ["one", unnamed.id]


def test_digests_stay_the_same_from_release_to_release() -> None:
    # A changed digest would render finished datasets again.
    row = {
        "prompt": "a café 🎬",
        "num_frames": 49,
        "guidance_scale": 6.5,
        "image": b"\x89PNG",
    }
    assert row_digest({"prompt": "a cat"}) == "3c775fcc9396f480239a1b029fa22d99"
    assert row_digest(row) == "19d4107521bada4537d474af6d5e1396"


def test_digests_are_the_same_in_another_process(tmp_path: Path) -> None:
    path = write(tmp_path / "m.parquet", {"prompt": ["p", "q"], "seed": [1, 2]})
    code = (
        "import sys; from vidgen_dist.manifest import open_manifest\n"
        "m = open_manifest(sys.argv[1]); print(*m.ids())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", code, path], env=environment, capture_output=True, check=True
    )
    assert done.stdout.decode().split() == [row.id for row in rows_of(open_manifest(path))]


request_values = st.fixed_dictionaries(
    {"prompt": st.text(st.characters(exclude_categories=["Cs"]), max_size=20)},
    optional={
        "negative_prompt": st.sampled_from(["", "blur"]),
        "image": st.sampled_from(["a.png", "b.png"]),
        "height": st.integers(1, 4096),
        "num_frames": st.integers(1, 200),
        "guidance_scale": st.floats(0, 30),
        "use_dynamic_cfg": st.booleans(),
        "seed": st.integers(0, 2**63 - 1),
    },
)


@settings(max_examples=30)
@given(st.lists(request_values, min_size=1, max_size=5), st.permutations(tuple(FIELDS)), st.booleans())
def test_digests_depend_on_the_request_alone(
    tmp_path_factory: pytest.TempPathFactory,
    rows: Sequence[dict[str, Any]],
    order: Sequence[str],
    nulls: bool,
) -> None:
    folder = tmp_path_factory.mktemp("m")
    there = {name for row in rows for name in row}
    names = [name for name in order if name in there or (nulls and name != "id")]
    plain = pa.Table.from_pylist(rows, pa.schema([(n, column_of(FIELDS[n]).written) for n in sorted(there)]))
    other = pa.Table.from_pylist(rows[::-1], pa.schema([(n, column_of(FIELDS[n]).written) for n in names]))
    other = other.append_column("note", pa.array([str(n) for n in range(len(rows))]))
    ids = [row.id for row in rows_of(open_manifest(write(folder / "a" / "m.parquet", plain)))]
    again = rows_of(open_manifest(write(folder / "b" / "n.parquet", other, row_group_size=2)))
    assert [row.id for row in again][::-1] == ids
    same = [{k: v for k, v in row.items() if v is not None} for row in rows]
    assert len(set(ids)) == len({json.dumps(row, sort_keys=True) for row in same})


ROW_DIGESTS: list[tuple[dict[str, Any], str]] = [
    ({}, "5470a2870ea0ad80c60a0343fdb7b022"),
    ({"negative_prompt": "dull"}, "49c74fa23512c401158a28897759a341"),
    ({"image": "/a.png"}, "4d7eba25ff50b38f1f442556847c74ef"),
    ({"video": "/a.mp4"}, "0e54d980db7a72bcddfdb4232cf8514b"),
    ({"height": 480}, "fc651c69fa6d4582533502b750191251"),
    ({"width": 720}, "d80a2b2510ea9b586dbd2c4e054a7a1d"),
    ({"num_frames": 49}, "29a765d39592661ae1d03182d666c6b2"),
    ({"num_inference_steps": 50}, "f64e222f06dd3cf8dad40c69ecea3fd0"),
    ({"guidance_scale": 6.5}, "5994ffff1170cebb2942556d3e6c5388"),
    ({"guidance_rescale": 0.7}, "62ba34393433eade62fcbd97d2577154"),
    ({"true_cfg_scale": 4.0}, "a0e16a96c73a3bdfd377d2104939e5a4"),
    ({"use_dynamic_cfg": True}, "1ca9f16b0c874dafd2b93519a57a7d2a"),
    ({"eta": 0.5}, "0a75a072b487742efe893d5e3c1a23bf"),
    ({"strength": 0.8}, "6de9290e432f22f6260d1b8ed611cdc6"),
    ({"max_sequence_length": 226}, "efe558837b04e471a585554e79acba22"),
    ({"frame_rate": 24.0}, "c7aeb111f6160762301ce4380fc53cc7"),
    ({"decode_timestep": 0.05}, "aac51ab3ea9cad4639951af67b532ff9"),
    ({"decode_noise_scale": 0.025}, "6939c0297342e96460c394227474a8a3"),
    ({"seed": 7}, "a3beebbef09d84a4a082052c13b8058d"),
    ({"fps": 16.0}, "bab16646b9372be581c120676e853140"),
]


"""Digests of "a fox" and one field more, under which ledgers know rows without an id."""


@pytest.mark.parametrize(("used", "digest"), ROW_DIGESTS)
def test_digests_are_written_down(used: dict[str, Any], digest: str) -> None:
    assert row_digest({"prompt": "a fox", **used}) == digest


@pytest.mark.parametrize("kind", [pa.int8(), pa.int64(), pa.float32(), pa.float64()])
def test_digests_do_not_depend_on_the_type_of_a_number(tmp_path: Path, kind: pa.DataType) -> None:
    columns = {"prompt": ["p"], "num_frames": pa.array([49], kind), "guidance_scale": pa.array([6], kind)}
    (row,) = rows_of(open_manifest(write(tmp_path / "m.parquet", columns)))
    assert row.id == row_digest({"prompt": "p", "num_frames": 49, "guidance_scale": 6})
