"""Expanding a manifest: seeds, grids, templates; ids that stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.commands import Vidgen
from vidgen_dist.errors import Refused
from vidgen_dist.families import known_fields
from vidgen_dist.manifest import check, open_manifest, row_seed
from vidgen_dist.manifest_expand import expand


def manifest(folder: Path, *rows: dict[str, Any], name: str = "m.parquet") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), folder / name)
    return folder / name


def expanded(source: Path, **how: Any) -> list[dict[str, Any]]:
    out = source.parent / "out.parquet"
    report = expand(source, out, fields=known_fields(), **how)
    rows = pq.read_table(out).to_pylist()
    assert report.rows == len(rows)
    assert check(open_manifest(out)).ok
    return rows


def test_all_combinations_row_by_row(tmp_path: Path) -> None:
    source = manifest(tmp_path, {"id": "a", "prompt": "x", "mood": 3}, {"id": "b", "prompt": "y", "mood": 4})
    rows = expanded(source, seeds=2, grid={"guidance_scale": [4, 6.5]})
    assert [row["id"] for row in rows[:4]] == [
        "a-guidance_scale=4-seed=0",
        "a-guidance_scale=4-seed=1",
        "a-guidance_scale=6.5-seed=0",
        "a-guidance_scale=6.5-seed=1",
    ]
    assert [(row["guidance_scale"], row["prompt"], row["mood"]) for row in rows[1:6]] == [
        (4.0, "x", 3),
        (6.5, "x", 3),
        (6.5, "x", 3),
        (4.0, "y", 4),
        (4.0, "y", 4),
    ]
    assert [row["seed"] for row in rows[:4]] == [row_seed(0, "a"), row_seed(1, "a")] * 2


def test_rows_keep_ids_and_seeds_when_the_grid_grows(tmp_path: Path) -> None:
    source = manifest(tmp_path, {"prompt": "x"}, {"prompt": "y"})
    few = expanded(source, seeds=2, grid={"num_frames": [9]})
    many = expanded(source, seeds=5, grid={"num_frames": [9, 17]})
    assert len(many) == 20
    by_id = {row["id"]: row for row in many}
    assert [by_id[row["id"]] for row in few] == few
    assert len({row["seed"] for row in many}) == 10


def test_a_rows_own_seed_is_counted_up(tmp_path: Path) -> None:
    rows = expanded(manifest(tmp_path, {"id": "a", "prompt": "x", "seed": 7}), seeds=3)
    assert [row["seed"] for row in rows] == [7, 8, 9]
    with pytest.raises(Refused, match="a: 9223372036854775807 \\+ 1 is above"):
        expanded(manifest(tmp_path, {"id": "a", "prompt": "x", "seed": 2**63 - 1}), seeds=2)


def test_words_from_columns_and_lists(tmp_path: Path) -> None:
    source = manifest(tmp_path, {"id": "a", "animal": "fox", "n": 2.0}, {"id": "b", "animal": None, "n": 1.5})
    rows = expanded(source, template="{{{n}}} {animal} in {place}", grid={"place": ["snow", "sand"]})
    assert [(row["id"], row["prompt"]) for row in rows] == [
        ("a-place=snow", "{2} fox in snow"),
        ("a-place=sand", "{2} fox in sand"),
        ("b-place=snow", "{1.5}  in snow"),
        ("b-place=sand", "{1.5}  in sand"),
    ]
    assert list(rows[0])[:2] == ["id", "prompt"]


def test_loras_in_a_grid(tmp_path: Path) -> None:
    source = manifest(tmp_path, {"id": "a", "prompt": "x"})
    rows = expanded(source, grid={"lora": ["org/a", ["org/a", "org/b"]], "lora_scale": [0.5]})
    assert [(row["id"], row["lora"], row["lora_scale"]) for row in rows[:1]] == [
        ("a-lora=org/a-lora_scale=0.5", ["org/a"], [0.5])
    ]
    assert rows[1]["lora"] == ["org/a", "org/b"]


def test_paths_open_from_another_folder(tmp_path: Path) -> None:
    source = manifest(tmp_path / "in", {"id": "a", "image": "a.png", "prompt": "x"})
    expand(source, tmp_path / "in" / "out.parquet", seeds=1, fields=known_fields())
    assert pq.read_table(tmp_path / "in" / "out.parquet").column("image").to_pylist() == ["a.png"]
    expand(source, tmp_path / "out" / "out.parquet", seeds=1, fields=known_fields())
    moved = pq.read_table(tmp_path / "out" / "out.parquet").column("image").to_pylist()
    assert moved == [str(tmp_path / "in" / "a.png")]


def test_several_files_in_many_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidgen_dist.manifest_expand._GROUP_ROWS", 6)
    folder = tmp_path / "in"
    manifest(folder, *({"id": f"{i}", "prompt": "x"} for i in range(5)), name="0.parquet")
    manifest(folder, *({"id": f"{i}", "prompt": "y"} for i in range(5, 7)), name="1.parquet")
    expand(folder, tmp_path / "out.parquet", seeds=3, fields=known_fields())
    ids = pq.read_table(tmp_path / "out.parquet").column("id").to_pylist()
    assert ids == [f"{i}-seed={k}" for i in range(7) for k in range(3)]


def test_priorities_and_files_of_several_types(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    empty = pa.table({"id": ["a"], "prompt": ["x"], "negative_prompt": pa.nulls(1), "guidance_scale": [6]})
    folder.mkdir()
    pq.write_table(empty.append_column("priority", pa.array([3])), folder / "0.parquet")
    row = {
        "id": ["b"],
        "prompt": ["y"],
        "negative_prompt": ["dull"],
        "guidance_scale": [6.5],
        "priority": [1],
    }
    pq.write_table(pa.table(row), folder / "1.parquet")
    expand(folder, tmp_path / "out.parquet", seeds=1, fields=known_fields())
    made = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [(each["priority"], each["guidance_scale"], each["negative_prompt"]) for each in made] == [
        (3, 6.0, None),
        (1, 6.5, "dull"),
    ]


def test_secrets_are_no_part_of_ids(tmp_path: Path) -> None:
    place = "https://me:hidden@host/a.safetensors"
    (row,) = expanded(manifest(tmp_path, {"id": "a", "prompt": "x"}), grid={"lora": [place]})
    assert row["lora"] == [place]
    assert "hidden" not in row["id"]


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({}, "nothing to expand"),
        ({"seeds": 0}, "seeds: 0 is not allowed"),
        ({"seeds": 2, "grid": {"seed": [1]}}, "the grid has seed, too"),
        ({"grid": {"prompt": ["a"]}}, "prompt is not allowed; each row has its own"),
        ({"grid": {"num_frames": []}}, "num_frames is not allowed; it has no values"),
        ({"grid": {"num_frames": [9, 0]}}, "grid: num_frames: 0 is not allowed; a whole number from 1"),
        ({"grid": {"num_frames": [9, 9.0]}}, "num_frames has 9 more than once"),
        ({"template": "a {animal}"}, "template: no column animal; .* has id, prompt"),
        ({"template": "a {animal"}, "template: 'a {animal'"),
        ({"template": "a {prompt!r}"}, "braces must hold the name of a column"),
    ],
)
def test_what_cannot_be_expanded_is_refused(tmp_path: Path, how: dict[str, Any], told: str) -> None:
    source = manifest(tmp_path, {"id": "a", "prompt": "x"})
    with pytest.raises(Refused, match=told):
        expanded(source, **how)
    assert not (tmp_path / "out.parquet").exists()


def test_bad_rows_are_refused(tmp_path: Path) -> None:
    source = manifest(tmp_path, {"id": "a", "prompt": "x", "num_frames": 0}, {"id": "a", "prompt": "y"})
    with pytest.raises(Refused, match=r"(?s)row 0 \(id 'a'\): num_frames.*the same as that of row 0"):
        expanded(source, seeds=2)


def test_the_command(tmp_path: Path, vidgen: Vidgen) -> None:
    source = manifest(tmp_path, {"id": "a", "prompt": "x"})
    out = tmp_path / "out.parquet"
    flags = ["--seeds", "2", "--grid", "guidance_scale=4,6", "--grid", "kind=true,12"]
    said = vidgen("manifest", "expand", source, out, *flags, "--template", "{prompt} {kind}")
    assert said.status == 0
    assert "8 rows, columns id, prompt, " in said.out
    assert set(pq.read_table(out).column("prompt").to_pylist()) == {"x true", "x 12"}
    twice = ("--grid", "num_frames=9", "--grid", "num_frames=5")
    assert vidgen("manifest", "expand", source, out, *twice).status == 2
