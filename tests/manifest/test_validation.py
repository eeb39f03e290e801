"""The check names bad rows with file, row and column, and counts them."""

from __future__ import annotations

import dataclasses
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.manifest.parquet import rows_of, write
from vidgen_dist.manifest import Problem, check, open_manifest
from vidgen_dist.manifest.validation import MOST_REASONS
from vidgen_dist.request import RenderRequest, RequestError

BAD_CELLS = [
    ("prompt", None, "prompt: None is not allowed; a text"),
    ("id", "", "id: '' is not allowed"),
    ("num_frames", -1, "num_frames: -1 is not allowed; a whole number from 1"),
    ("num_frames", 0, "num_frames: 0 is not allowed; a whole number from 1"),
    ("num_frames", 4.5, "num_frames: 4.5 is not allowed; a whole number from 1"),
    ("num_frames", float("nan"), "num_frames: nan is not allowed"),
    ("height", -480, "height: -480 is not allowed"),
    ("width", 0.5, "width: 0.5 is not allowed"),
    ("num_inference_steps", 0, "num_inference_steps: 0 is not allowed"),
    ("max_sequence_length", 0, "max_sequence_length: 0 is not allowed"),
    ("seed", -1, "seed: -1 is not allowed; a whole number from 0 to 9223372036854775807"),
    ("seed", 1e300, "seed: 1e+300 is not allowed"),
    ("guidance_scale", float("inf"), "guidance_scale: inf is not allowed"),
    ("guidance_scale", -1.0, "guidance_scale: -1.0 is not allowed"),
    ("eta", 1.5, "eta: 1.5 is not allowed"),
    ("strength", 0.0, "strength: 0.0 is not allowed; a number above 0"),
    ("fps", 0.0, "fps: 0.0 is not allowed"),
]


@pytest.mark.parametrize(("column", "value", "said"), BAD_CELLS)
def test_a_bad_cell_is_named_with_file_row_and_column(
    tmp_path: Path, column: str, value: Any, said: str
) -> None:
    good = {"strength": 0.5, "fps": 8.0, "prompt": "fine", "id": "x"}.get(column, 1)
    columns = {"prompt": ["p", "q", "r"]} | {column: [good, value, None if column != "prompt" else "s"]}
    path = write(tmp_path / "m.parquet", columns)
    report = check(open_manifest(path))
    assert not report.ok
    assert report.rows == 3
    assert report.counts == {column: 1}
    (problem,) = report.problems
    assert (problem.file, problem.row, problem.column) == (path, 1, column)
    assert problem.message.startswith(said)
    assert str(problem).startswith(f"{path}, row 1 (id ")
    row = rows_of(open_manifest(path))[1]
    assert isinstance(row.outcome, RequestError)
    assert (row.id, str(row.outcome)) == (problem.id, problem.message)


def test_a_seed_beyond_64_bits_is_a_bad_row(tmp_path: Path) -> None:
    columns = {"prompt": ["p", "q"], "seed": pa.array([2**63, 1], pa.uint64())}
    (problem,) = check(open_manifest(write(tmp_path / "m.parquet", columns))).problems
    assert (problem.row, problem.column) == (0, "seed")


def test_a_good_manifest_has_no_problems(tmp_path: Path) -> None:
    path = write(tmp_path / "m.parquet", {"prompt": ["p", "q"], "mood": ["gay", "grim"]})
    report = check(open_manifest(path))
    assert report.ok
    assert (report.rows, report.bad_rows, report.problems, report.num_problems) == (2, 0, (), 0)
    assert report.unknown_columns == ("mood",)


def test_two_rows_with_one_id_are_both_named(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"prompt": ["p", "q", "r"], "id": ["1", "2", "3"]}, row_group_size=1)
    write(tmp_path / "b.parquet", {"prompt": ["s", "t", "u"], "id": [4, 2, 2]})
    report = check(open_manifest(tmp_path))
    assert report.counts == {"id": 2}
    assert [(p.file, p.row, p.id, p.column) for p in report.problems] == [
        (str(tmp_path / "b.parquet"), 1, "2", "id"),
        (str(tmp_path / "b.parquet"), 2, "2", "id"),
    ]
    assert f"the same as that of row 1 of {tmp_path / 'a.parquet'}" in report.problems[0].message


def test_two_rows_without_id_that_ask_for_the_same_share_one(tmp_path: Path) -> None:
    report = check(open_manifest(write(tmp_path / "m.parquet", {"prompt": ["p", "q", "p"]})))
    (problem,) = report.problems
    assert (problem.row, problem.column) == (2, "id")
    assert "row 0" in problem.message
    assert check(open_manifest(write(tmp_path / "m.parquet", {"prompt": ["p"] * 3, "seed": [1, 2, 3]}))).ok


@settings(max_examples=30)
@given(st.lists(st.integers(0, 12), max_size=40), st.integers(1, 9))
def test_every_shared_id_is_counted(
    tmp_path_factory: pytest.TempPathFactory, ids: list[int], group: int
) -> None:
    path = tmp_path_factory.mktemp("m") / "m.parquet"
    columns = {"prompt": pa.array(["p"] * len(ids), pa.string()), "id": pa.array(ids, pa.int64())}
    report = check(open_manifest(write(path, columns, row_group_size=group)), limit=1000)
    again = [row for row, number in enumerate(ids) if number in ids[:row]]
    assert [problem.row for problem in report.problems] == again
    assert report.num_problems == len(again)


def test_problems_are_counted_beyond_those_named(tmp_path: Path) -> None:
    columns = {"prompt": ["p"] * 60, "num_frames": [-1] * 50 + [1] * 10, "id": [0] * 60}
    report = check(open_manifest(write(tmp_path / "m.parquet", columns)), limit=3)
    assert report.counts == {"num_frames": 50, "id": 59}
    assert [p.column for p in report.problems] == ["num_frames"] * 3 + ["id"] * 3
    assert (report.num_problems, report.bad_rows) == (109, 60)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=25), st.integers(1, 9))
def test_a_bad_row_is_counted_once(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, bool]], group: int
) -> None:
    path = tmp_path_factory.mktemp("m") / "m.parquet"
    columns = {
        "prompt": pa.array(["p"] * len(rows), pa.string()),
        "id": pa.array([number for number, _ in rows], pa.int64()),
        "num_frames": pa.array([-1 if bad else 1 for _, bad in rows], pa.int64()),
    }
    report = check(open_manifest(write(path, columns, row_group_size=group)))
    ids = [number for number, _ in rows]
    assert report.bad_rows == sum(bad or ids[row] in ids[:row] for row, (_, bad) in enumerate(rows))


def test_defaults_and_the_models_rules_are_part_of_the_check(tmp_path: Path) -> None:
    manifest = open_manifest(write(tmp_path / "m.parquet", {"prompt": ["p", "q"], "height": [480, None]}))

    def resolve(request: RenderRequest) -> RenderRequest:
        assert request.height is not None
        if request.height % 16:
            raise RequestError("height", request.height, "a multiple of 16")
        return dataclasses.replace(request, width=720)

    assert check(manifest, resolve=resolve, defaults={"height": 16}).ok
    (problem,) = check(manifest, resolve=resolve, defaults={"height": 100}).problems
    assert (problem.row, problem.column, problem.message) == (
        1,
        "height",
        "height: 100 is not allowed; a multiple of 16",
    )


VALUES: dict[str, list[tuple[pa.DataType, list[Any]]]] = {
    "prompt": [
        (kind, ["a", "", None, 'é"\\']) for kind in (pa.string(), pa.large_string(), pa.string_view())
    ],
    "id": [(pa.string(), ["x", "y", "", None]), (pa.int64(), [1, 2, None])],
    "seed": [
        (pa.int64(), [1, 2, None, -1]),
        (pa.uint64(), [1, None, 2**63]),
        (pa.float64(), [1.0, 2.5, None]),
    ],
    "height": [(pa.int32(), [16, 32, None, 17, -1]), (pa.float32(), [16.0, 17.0, 0.5, None])],
    "guidance_scale": [(pa.float64(), [0.0, -0.0, 1.5, None, float("nan"), float("inf")])],
    "negative_prompt": [
        (pa.string(), ["n", "", None]),
        (pa.dictionary(pa.int32(), pa.string()), ["n", None]),
    ],
    "image": [
        (pa.string(), ["a.png", "", None]),
        (pa.binary(), [b"x", b"", None]),
        (
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
            [None, {"bytes": b"x"}, {"path": "p"}, {"bytes": None, "path": None}, {"path": ""}],
        ),
    ],
    "use_dynamic_cfg": [(pa.bool_(), [True, False, None]), (pa.null(), [None])],
}


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    rows = draw(st.integers(0, 12))
    columns = {}
    for name, kinds in VALUES.items():
        if name == "prompt" or draw(st.booleans()):
            kind, values = draw(st.sampled_from(kinds))
            column = draw(st.lists(st.sampled_from(values), min_size=rows, max_size=rows))
            flat = kind.value_type if pa.types.is_dictionary(kind) else kind
            columns[name] = pa.array(column, flat).cast(kind)
    return pa.table(columns)


@settings(max_examples=60)
@given(table=tables(), group=st.integers(1, 12), height=st.sampled_from([None, 16, 17]))
def test_rows_looked_at_together_are_as_rows_one_by_one(
    tmp_path_factory: pytest.TempPathFactory, table: pa.Table, group: int, height: int | None
) -> None:
    manifest = open_manifest(write(tmp_path_factory.mktemp("m") / "m.parquet", table, row_group_size=group))

    def resolve(request: RenderRequest) -> RenderRequest:
        if request.height is not None and request.height % 16:
            raise RequestError("height", request.height, "a multiple of 16")
        if request.image is not None and request.negative_prompt is not None:
            raise RequestError("negative_prompt", request.negative_prompt, "none with an image")
        return request

    given: dict[str, Any] = {"defaults": {"height": height}, "resolve": resolve, "limit": 100}
    listed: list[Problem] = []
    report = check(manifest, **given, on_bad=lambda bad: listed.extend(bad.problems(slice(None))))
    assert report.problems == tuple(listed)
    # Whoever probes looks at every row.
    assert report == check(manifest, **given) == check(manifest, **given, probe=lambda _: None)
    rows = rows_of(manifest)
    assert list(manifest.ids()) == [row.id for row in rows]
    bare = [name for name in table.column_names if name != "id"]
    nameless = open_manifest(write(Path(manifest.files[0].uri).with_name("n.parquet"), table.select(bare)))
    digests = [digest for batch in manifest.batches() for digest in batch.digests(batch.plain | True)]
    assert digests == [row.id for row in nameless.rows()]
    taken = 0
    for batch in manifest.batches():
        for row, places in batch.groups(np.ones(len(batch), np.bool_)):
            prompts, seeds = (
                [None] * len(places) if column is None else column.to_pylist()
                for column in (batch.prompts(places), batch.seeds(places))
            )
            for place, prompt, seed in zip(places, prompts, seeds, strict=True):
                like = rows[batch.indices[place]]
                assert type(like.outcome) is type(row.outcome)
                if isinstance(row.outcome, RenderRequest):
                    own = {"id": like.id, "prompt": prompt, "seed": seed}
                    image = getattr(like.outcome, "image", None)
                    assert like.request == dataclasses.replace(row.request, image=image, **own)
                taken += 1
    assert taken <= len(rows)


def test_bad_rows_are_counted_by_column_and_reason(tmp_path: Path) -> None:
    columns = {"prompt": ["p", None, *["q"] * 98], "seed": range(100), "height": [16, *range(-98, 0), 0.5]}
    manifest = open_manifest(write(tmp_path / "m.parquet", columns, row_group_size=40))
    first, second = check(manifest).reasons
    assert str(first) == (
        f"height, 98 rows: a whole number from 1 to 2147483647; the first: {tmp_path}/m.parquet, row 2 (id "
        f"{first.first.id!r}): -97.0"
    )
    assert (second.count, second.first.row, second.first.column) == (1, 1, "prompt")
    assert str(second).endswith(": nothing")


def test_not_all_reasons_are_told_apart(tmp_path: Path) -> None:
    """A probe may give a different reason for each image."""
    words = ["".join(letters) for letters in product("abcdefghijk", repeat=3)]
    assert len(words) > MOST_REASONS
    columns = {"prompt": words, "image": words}

    def probe(request: RenderRequest) -> None:
        raise ValueError(f"{request.prompt} is broken")

    report = check(open_manifest(write(tmp_path / "m.parquet", columns)), probe=probe)
    others = len(words) - MOST_REASONS
    assert [(reason.count, reason.others) for reason in report.reasons] == [
        (others, True),
        *[(1, False)] * MOST_REASONS,
    ]
    assert f"image, {others} rows: other reasons; the first: " in str(report.reasons[0])


def test_media_that_do_not_open_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"an image")
    columns = {"prompt": list("pqrs"), "image": ["a.png", "none.png", "bad.png", None]}
    (tmp_path / "bad.png").write_bytes(b"?")
    manifest = open_manifest(write(tmp_path / "m.parquet", columns))
    seen: list[str] = []

    def probe(request: RenderRequest) -> None:
        if request.image is not None:
            seen.append(request.image)
            if Path(request.image).read_bytes() == b"?":
                raise ValueError(f"{request.image}: does not decode as an image")

    report = check(manifest, probe=probe)
    assert sorted(seen) == [str(tmp_path / name) for name in ("a.png", "bad.png", "none.png")]
    assert [(p.row, p.column) for p in report.problems] == [(1, "image"), (2, "image")]
    assert "none.png" in report.problems[0].message
    assert "bad.png: does not decode" in report.problems[1].message
    assert report.counts == {"image": 2}
    assert check(manifest).ok


def test_checking_holds_few_rows(tmp_path: Path) -> None:
    # 2,000 rows of 64 KiB: the whole would be 128 MiB.
    image = pa.array([np.random.default_rng(n).bytes(2**16) for n in range(2000)], pa.binary())
    columns = {"prompt": [str(n) for n in range(2000)], "image": image}
    pages = {"use_dictionary": False, "write_batch_size": 8, "data_page_size": 2**20}
    manifest = open_manifest(write(tmp_path / "m.parquet", columns, compression="none", **pages))
    del columns, image
    pool = pa.default_memory_pool()
    before, most = pool.bytes_allocated(), 0

    def probe(_request: RenderRequest) -> None:
        nonlocal most
        most = max(most, pool.bytes_allocated() - before)

    assert check(manifest, probe=probe).ok
    assert 0 < most < 80 * 2**20
