"""Manifests are built from text, CSV and JSON lines; bad lines are refused by name."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.manifest.parquet import request_of, rows_of
from vidgen_dist.errors import Refused
from vidgen_dist.manifest import check, open_manifest
from vidgen_dist.manifest_build import build
from vidgen_dist.request import RenderRequest
from vidgen_dist.storage.folder import open_storage


def test_text_csv_and_json_lines_make_one_manifest(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffa cat\r\n\n  a café \u2028 still one line\n".encode())
    (tmp_path / "b.csv").write_bytes(
        "\ufeffprompt,num_frames,guidance_scale,use_dynamic_cfg,seed,mood\n"
        '"one, ""two""\nthree",49,6,TRUE,9223372036854775807,gay\n'
        "\n"
        "plain, 9.0 ,.5,,,\n".encode()
    )
    (tmp_path / "c.jsonl").write_text(
        '{"prompt": "j\\u00e9", "id": 7, "fps": 8, "height": 480.0, "tags": ["x", 1]}\n\n{"prompt": ""}\n'
    )
    inputs = [tmp_path / name for name in ("a.txt", "b.csv", "c.jsonl")]
    report = build(inputs, tmp_path / "m.parquet")
    assert report.rows == 6
    assert report.unknown_columns == ("mood", "tags")
    manifest = open_manifest(tmp_path / "m.parquet", passthrough=("mood", "tags"))
    assert manifest.columns == report.columns
    rows = rows_of(manifest)
    assert [request_of(row) for row in rows] == [
        RenderRequest(prompt="a cat", id="a-000001"),
        RenderRequest(prompt="a café \u2028 still one line", id="a-000003"),
        RenderRequest(
            prompt='one, "two"\nthree',
            id="b-000002",
            num_frames=49,
            guidance_scale=6.0,
            use_dynamic_cfg=True,
            seed=2**63 - 1,
        ),
        RenderRequest(prompt="plain", id="b-000005", num_frames=9, guidance_scale=0.5),
        RenderRequest(prompt="jé", id="7", fps=8.0, height=480),
        RenderRequest(prompt="", id="c-000003"),
    ]
    assert [row.extra["mood"] for row in rows] == [None, None, "gay", None, None, None]
    assert rows[4].extra["tags"] == '["x", 1]'
    schema = pq.read_schema(tmp_path / "m.parquet")
    assert (schema.field("seed").type, schema.field("guidance_scale").type) == (pa.int64(), pa.float64())
    assert check(manifest).ok


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (",prompt,seed\n0,a cat,1\n1,a dog,\n", {"Unnamed: 0": ["0", "1"]}),
        ("Unnamed: 0,prompt,seed\n0,a cat,1\n,a dog,\n", {"Unnamed: 0": ["0", None]}),
        # Written with an index, read as if it had none, and written with one again.
        (
            ",Unnamed: 0,prompt\n0,7,a cat\n1,8,a dog\n",
            {"Unnamed: 0.1": ["0", "1"], "Unnamed: 0": ["7", "8"]},
        ),
        (",,prompt\nx,0,a cat\nx,1,a dog\n", {"Unnamed: 0": ["x", "x"], "Unnamed: 1": ["0", "1"]}),
        ('"", prompt , \n0,a cat,\n1,a dog,\n', {"Unnamed: 0": ["0", "1"]}),
        ("prompt,\na cat,\na dog,\n", {}),
    ],
)
def test_an_index_without_a_name_is_kept_as_pandas_calls_it(
    tmp_path: Path, text: str, named: dict[str, list[str | None]]
) -> None:
    (tmp_path / "p.csv").write_text(text)
    report = build([tmp_path / "p.csv"], tmp_path / "m.parquet")
    assert report.unknown_columns == tuple(named)
    table = pq.read_table(tmp_path / "m.parquet")
    assert {name: table[name].to_pylist() for name in ("prompt", "id", *named)} == {
        "prompt": ["a cat", "a dog"],
        "id": ["p-000002", "p-000003"],
        **named,
    }


def test_a_folder_of_inputs_with_prompts_that_repeat(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "p.txt").write_text("a cat\na cat\n")
    build([tmp_path], tmp_path / "m.parquet")
    manifest = open_manifest(tmp_path / "m.parquet")
    assert [row.id for row in rows_of(manifest)] == ["p-000001", "p-000002", "p-2-000001", "p-2-000002"]
    assert check(manifest).ok


def test_relative_media_stay_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "p.csv").write_text("prompt,image,video\np,i/a.png,/abs/a.mp4\n")
    build([tmp_path / "in" / "p.csv"], tmp_path / "in" / "m.parquet")
    build([tmp_path / "in" / "p.csv"], tmp_path / "out" / "m.parquet")
    assert pq.read_table(tmp_path / "in" / "m.parquet")["image"].to_pylist() == ["i/a.png"]
    for folder in ("in", "out"):
        (row,) = rows_of(open_manifest(tmp_path / folder / "m.parquet"))
        assert request_of(row).image == str(tmp_path / "in" / "i" / "a.png")
        assert request_of(row).video == "/abs/a.mp4"


def test_row_groups_are_small_enough_to_hand_out(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("".join(f"prompt {n}\n" for n in range(5000)))
    build([tmp_path / "p.txt"], tmp_path / "m.parquet")
    assert open_manifest(tmp_path / "m.parquet").files[0].row_groups == (4096, 904)
    # 100 kB of prompt a row: a group stays within some megabytes.
    (tmp_path / "p.txt").write_text(("x" * 100_000 + "\n") * 400)
    build([tmp_path / "p.txt"], tmp_path / "m.parquet")
    assert max(open_manifest(tmp_path / "m.parquet").files[0].row_groups) < 200


def test_priorities_are_whole_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,priority\na,-3\nb,\nc,4.0\n")
    (tmp_path / "b.jsonl").write_text(
        '{"prompt": "d", "priority": 9223372036854775807}\n{"prompt": "e", "priority": null}\n'
    )
    (tmp_path / "c.txt").write_text("f\n")
    report = build([tmp_path / name for name in ("a.csv", "b.jsonl", "c.txt")], tmp_path / "m.parquet")
    assert (report.columns, report.unknown_columns) == (("prompt", "id", "priority"), ())
    table = pq.read_table(tmp_path / "m.parquet")
    assert table.schema.field("priority").type == pa.int64()
    assert table["priority"].to_pylist() == [-3, None, 4, 2**63 - 1, None, None]
    assert check(open_manifest(tmp_path / "m.parquet")).ok


BAD_INPUTS = [
    ("p.csv", b"prompt,priority\na,high\n", "p.csv, line 2: priority: 'high' is not allowed; a whole number"),
    ("p.csv", b"prompt,priority\na,1.5\n", "p.csv, line 2: priority: 1.5 is not allowed; a whole number"),
    ("p.jsonl", b'{"prompt": "a", "priority": "1"}\n', "p.jsonl, line 1: priority: '1' is not allowed"),
    ("p.jsonl", b'{"prompt": "a", "priority": true}\n', "p.jsonl, line 1: priority: True is not allowed"),
    (
        "p.jsonl",
        b'{"prompt": "a", "priority": 9223372036854775808}\n',
        "p.jsonl, line 1: priority: 9223372036854775808 is not allowed; a whole number from -2**63 to",
    ),
    ("p.csv", b"text,seed\na,1\n", "p.csv: the header has no column 'prompt'; it has: text, seed"),
    ("p.csv", b"prompt,seed,seed\na,1,2\n", "p.csv: the header ['prompt', 'seed', 'seed'] must name each"),
    ("p.csv", b",seed\na,1\n", "p.csv: the header has no column 'prompt'; it has: Unnamed: 0, seed"),
    ("p.csv", b"", "p.csv: is empty; its first line must name the columns"),
    (
        "p.csv",
        b"prompt,seed\na,1\nb\n",
        "p.csv, line 3: line: ['b'] is not allowed; 2 cells, as in the header",
    ),
    ("p.csv", b"prompt,seed\na,1,2\n", "p.csv, line 2: line: ['a', '1', '2'] is not allowed; 2 cells"),
    ("p.csv", b'prompt\n"a\n', "p.csv, line 2: cannot be read as CSV"),
    ("p.csv", b"prompt\na\n\xff\n", "p.csv, line 3: is not UTF-8"),
    ("p.csv", b"prompt,seed\n,1\n", "p.csv, line 2: prompt: None is not allowed; a text"),
    (
        "p.csv",
        b'prompt,seed\n"a\nb",1\nc,-1\n',
        "p.csv, line 4: seed: -1 is not allowed; a whole number from 0",
    ),
    (
        "p.csv",
        b"prompt,num_frames\na,49.5\n",
        "p.csv, line 2: num_frames: 49.5 is not allowed; a whole number",
    ),
    ("p.csv", b"prompt,num_frames\na,1_000\n", "p.csv, line 2: num_frames: '1_000' is not allowed"),
    ("p.csv", b"prompt,fps\na,nan\n", "p.csv, line 2: fps: 'nan' is not allowed; a number"),
    ("p.csv", b"prompt,fps\na,8 fps\n", "p.csv, line 2: fps: '8 fps' is not allowed; a number"),
    ("p.csv", b"prompt,fps\na,1e999\n", "p.csv, line 2: fps: inf is not allowed"),
    (
        "p.csv",
        b"prompt,use_dynamic_cfg\na,1\n",
        "p.csv, line 2: use_dynamic_cfg: '1' is not allowed; true or false",
    ),
    ("p.csv", b"prompt,id\na,1\nb,1\n", "p.csv, line 3: id: '1' is also the id of"),
    ("p.txt", b"a cat\n\xff\n", "p.txt, line 2: line: b'\\xff\\n' is not allowed; UTF-8"),
    ("p.txt", b"\n \n", "p.txt: there are no rows"),
    (
        "p.jsonl",
        b'{"prompt": "a"}\n{"prompt": \n',
        "p.jsonl, line 2: line: '{\"prompt\":' is not allowed; a JSON object (Expecting value: line 1 ",
    ),
    ("p.jsonl", b'["a"]\n', "p.jsonl, line 1: line: '[\"a\"]' is not allowed; a JSON object"),
    (
        "p.jsonl",
        b'{"prompt": "a", "prompt": "b"}\n',
        "p.jsonl, line 1: prompt: '2 times' is not allowed; each key once",
    ),
    ("p.jsonl", b'{"seed": 1}\n', "p.jsonl, line 1: prompt: None is not allowed"),
    ("p.jsonl", b'{"prompt": 1}\n', "p.jsonl, line 1: prompt: 1 is not allowed; a text"),
    ("p.jsonl", b'{"prompt": "a", "num_frames": "49"}\n', "p.jsonl, line 1: num_frames: '49' is not allowed"),
    ("p.jsonl", b'{"prompt": "a", "fps": NaN}\n', "p.jsonl, line 1: fps: nan is not allowed"),
    ("p.jsonl", b'{"prompt": "a", "image": [1]}\n', "p.jsonl, line 1: image: [1] is not allowed; a text"),
    ("p.jsonl", b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}\n", "p.jsonl, line 1: line: "),
    (
        "p.jsonl",
        b'{"prompt": "\\ud800"}\n',
        "p.jsonl, line 1: prompt: '\\ud800' is not allowed; a text that UTF-8",
    ),
    ("p.jsonl", b'{"prompt": "a", "x": "\\ud800"}\n', "p.jsonl, line 1: x: '\\ud800' is not allowed"),
    ("p.jsonl", b'{"prompt": "a", "id": true}\n', "p.jsonl, line 1: id: True is not allowed"),
    ("p.tsv", b"prompt\na\n", "p.tsv: cannot be made into a manifest; allowed: .txt, .csv, .jsonl"),
]


@pytest.mark.parametrize(("name", "content", "said"), BAD_INPUTS)
def test_bad_input_is_named_and_nothing_is_written(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Refused) as caught:
        build([tmp_path / name], tmp_path / "m.parquet")
    assert str(caught.value).startswith(f"{tmp_path}/{said}")
    assert os.listdir(tmp_path) == [name]


def test_several_bad_lines_are_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("prompt,seed\n" + "a,-1\n" * 30)
    with pytest.raises(Refused) as caught:
        build([tmp_path / "p.csv"], tmp_path / "m.parquet")
    lines = str(caught.value).splitlines()
    assert len(lines) == 21
    assert lines[-1] == "and 10 more lines"


def test_inputs_and_outputs_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a\n")
    with pytest.raises(Refused, match=r"none\.txt: there is no such file"):
        build([tmp_path / "none.txt"], tmp_path / "m.parquet")
    with pytest.raises(Refused, match=r"m\.csv: the name of a manifest must end in \.parquet"):
        build([tmp_path / "p.txt"], tmp_path / "m.csv")
    with pytest.raises(Refused, match=r"cannot write .*p\.txt/m\.parquet: "):
        build([tmp_path / "p.txt"], tmp_path / "p.txt" / "m.parquet")
    (tmp_path / "p.csv").write_text("id,prompt\n1,a\n")
    with pytest.raises(Refused, match=r"p\.csv, line 2: id: '1' is also the id of .*p\.csv, line 2"):
        build([tmp_path / "p.csv"] * 2, tmp_path / "m.parquet")
    with pytest.raises(Refused, match="its own memory"):
        build([tmp_path / "p.txt"], "memory://m.parquet")


@settings(max_examples=30)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"prompt": st.text(st.characters(exclude_categories=["Cs"]), max_size=10)},
            optional={
                "seed": st.integers(0, 2**63 - 1),
                "fps": st.floats(0.5, 1000),
                "note": st.text("añ\n", max_size=3),
            },
        ),
        min_size=1,
        max_size=6,
    )
)
def test_json_lines_come_out_as_they_went_in(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, Any]]
) -> None:
    folder = tmp_path_factory.mktemp("b")
    (folder / "p.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    report = build([folder / "p.jsonl"], folder / "m.parquet")
    rows = rows_of(open_manifest(folder / "m.parquet", passthrough=report.unknown_columns))
    read = [
        {k: getattr(request_of(row), k) for k in ("prompt", "seed", "fps")} | dict(row.extra) for row in rows
    ]
    assert [{k: v for k, v in values.items() if v is not None} for values in read] == records


def test_building_from_and_to_s3(s3_bucket: str) -> None:
    store = open_storage(f"s3://{s3_bucket}/in")
    store.write_bytes("prompts.txt", b"a cat\na dog\n")
    store.write_bytes("more.csv", b"prompt,image\na fox,fox.png\n")
    out = f"s3://{s3_bucket}/out/m.parquet"
    report = build([store.uri("prompts.txt"), store.uri("*.csv")], out)
    assert (report.uri, report.rows) == (out, 3)
    rows = rows_of(open_manifest(out))
    assert [request_of(row).prompt for row in rows] == ["a cat", "a dog", "a fox"]
    assert request_of(rows[2]).image == f"s3://{s3_bucket}/in/fox.png"


def test_a_bucket_that_is_not_there_is_refused(s3_bucket: str, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a cat\n")
    with pytest.raises(
        Refused, match=f"cannot write s3://{s3_bucket}-none/m.parquet: .*bucket does not exist"
    ):
        build([tmp_path / "p.txt"], f"s3://{s3_bucket}-none/m.parquet")
