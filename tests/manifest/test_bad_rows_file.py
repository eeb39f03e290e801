"""Lists of all bad rows."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.manifest.parquet import write
from vidgen_dist.manifest import BAD_ROWS_SCHEMA, check, create_bad_rows_file, open_manifest
from vidgen_dist.request import RenderRequest, RequestError
from vidgen_dist.storage.folder import open_storage


def test_all_bad_rows_are_listed_in_a_file(tmp_path: Path) -> None:
    columns = {
        "prompt": ["p", None, "q", "r", "s" * 200],
        "id": ["a", "b", "c", "a", "d"],
        "height": [16, 16, -1, -1, 16],
        "image": ["s3://key:secret@bucket/x", "", "y", "z", "y"],
        "use_dynamic_cfg": pa.nulls(5),
    }
    for name in "mn":
        ids = [f"{name}{row_id}" for row_id in columns["id"]]
        write(tmp_path / "m" / f"{name}.parquet", columns | {"id": ids}, row_group_size=3)

    def resolve(request: RenderRequest) -> RenderRequest:
        if len(request.prompt or "") > 100 or "secret" in request.image:
            field = "image" if "secret" in request.image else "prompt"
            raise RequestError(field, getattr(request, field), "something else")
        return request

    place = open_storage(tmp_path / "out")
    with create_bad_rows_file(place, "bad.parquet", group_rows=2) as on_bad:
        report = check(open_manifest(tmp_path / "m"), resolve=resolve, on_bad=on_bad, limit=1)
        assert not place.list()
    found = pq.read_table(tmp_path / "out" / "bad.parquet")
    assert found.schema.equals(BAD_ROWS_SCHEMA)
    assert len(found) == report.num_problems == 12
    files = [str(tmp_path / "m" / f"{name}.parquet") for name in "mn"]
    allowed = "a whole number from 1 to 2147483647"
    again = "each row needs an id of its own (rows without one need to differ, in `seed` for example)"
    assert [tuple(row.values()) for row in found.to_pylist()] == [
        *(
            row
            for name, file in zip("mn", files, strict=True)
            for row in (
                (f"{name}a", 0, file, "image", "s3://bucket/x?***", "something else"),
                (f"{name}b", 1, file, "prompt", None, "a text"),
                (f"{name}c", 2, file, "height", "-1", allowed),
                (f"{name}a", 3, file, "height", "-1", allowed),
                (f"{name}d", 4, file, "prompt", "s" * 117 + "...", "something else"),
            )
        ),
        *(
            (f"{name}a", 3, file, "id", f"{name}a", f"the same as that of row 0 of {file}; {again}")
            for name, file in zip("mn", files, strict=True)
        ),
    ]


def test_a_list_of_no_bad_rows_has_the_columns(tmp_path: Path) -> None:
    with create_bad_rows_file(open_storage(tmp_path), "bad.parquet") as on_bad:
        check(open_manifest(write(tmp_path / "m.parquet", {"prompt": ["p"]})), on_bad=on_bad)
    found = pq.read_table(tmp_path / "bad.parquet")
    assert (len(found), found.schema.equals(BAD_ROWS_SCHEMA)) == (0, True)


def test_what_is_no_utf8_is_listed_with_escapes(tmp_path: Path) -> None:
    text = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xffx"]).buffers())
    manifest = open_manifest(write(tmp_path / "m.parquet", {"prompt": text, "id": ["a"]}))
    with create_bad_rows_file(open_storage(tmp_path), "bad.parquet") as on_bad:
        check(manifest, on_bad=on_bad)
    assert pq.read_table(tmp_path / "bad.parquet").to_pylist()[0]["value"] == "\\udcffx"


def test_a_list_that_is_cut_short_leaves_the_one_before(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"before")
    manifest = open_manifest(write(tmp_path / "m.parquet", {"prompt": [None, "p"]}, row_group_size=1))

    def cut_short() -> None:
        with create_bad_rows_file(open_storage(tmp_path), "bad.parquet") as on_bad:
            check(manifest, on_bad=on_bad)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut_short()
    assert (tmp_path / "bad.parquet").read_bytes() == b"before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.parquet", "m.parquet"]
