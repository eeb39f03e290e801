"""`vidgen export`: a videofolder and tar shards, read back."""

from __future__ import annotations

import io
import json
import tarfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from tests.commands import Vidgen, heavy_imports
from tests.fake_engine import FAKE_ENGINE
from tests.maintenance.outputs import ODD_IDS, path_in_output, put_run, put_video
from tests.manifest.test_arrow_types import readers_take
from vidgen_dist import media
from vidgen_dist.errors import Refused
from vidgen_dist.ledger import LedgerEntry, LedgerWriter, compact
from vidgen_dist.maintenance.export import export
from vidgen_dist.maintenance.export_writer import ExportPolicy, ExportReport
from vidgen_dist.maintenance.manifest_join import JoinPolicy
from vidgen_dist.maintenance.verification import verify
from vidgen_dist.manifest import check, open_manifest
from vidgen_dist.runtime.driver.render import render
from vidgen_dist.spec import RunSpec, parse_bytes
from vidgen_dist.storage.folder import Storage, open_storage

DONE = ODD_IDS
IDS = ("late", *reversed(DONE), "bad")
"""Ids of the manifest, in its order; the ledger has the opposite one."""


def put_manifest(path: Path, ids: tuple[str, ...] = IDS, **columns: list) -> str:
    table = {
        "id": list(ids),
        "prompt": [f"prompt of {row}"[:100] for row in ids],
        "source": [f"source of {row}"[:100] for row in ids],
        "num_inference_steps": [float(place) if place % 2 else None for place in range(1, len(ids) + 1)],
    }
    pq.write_table(pa.table(table | columns), path, row_group_size=3)
    return str(path)


def put_failure(output: Storage, row: str) -> None:
    with LedgerWriter(output, "w1") as writer:
        now = datetime.now(UTC)
        failed = LedgerEntry(
            id=row, status="failed", fingerprint="f", attempt=1, finished_at=now, error_class="OSError"
        )
        writer.append(failed)


@pytest.fixture
def output(tmp_path: Path) -> Storage:
    """Ten rows: eight done, one failed, one pending."""
    output = put_run(str(tmp_path / "out"), manifest=put_manifest(tmp_path / "manifest.parquet"))
    put_failure(output, "bad")
    return output


@pytest.fixture
def place(tmp_path: Path) -> str:
    return str(tmp_path / "exported")


def bytes_of(output: Storage, row: str) -> bytes:
    return output.read_bytes(path_in_output(output, row))


def contents(place: str) -> dict[str, bytes]:
    storage = open_storage(place)
    return {path: storage.read_bytes(path) for path in storage.sizes()}


def members(place: str) -> Iterator[tuple[str, tarfile.TarInfo, bytes]]:
    """Shard, header and content of all members, in their order."""
    storage = open_storage(place)
    for name in storage.list():
        if name.endswith(".tar"):
            with tarfile.open(fileobj=io.BytesIO(storage.read_bytes(name))) as tar:
                for member in tar:
                    file = tar.extractfile(member)
                    assert file is not None
                    yield name, member, file.read()


def samples(place: str) -> dict[str, dict[str, bytes]]:
    """As readers of tar shards group them: by the name up to its first dot, where one follows the other."""
    found: dict[str, dict[str, bytes]] = {}
    last = None
    for _, member, content in members(place):
        key, _, suffix = member.name.partition(".")
        assert key == last or key not in found
        found.setdefault(key, {})[suffix] = content
        last = key
    return found


def test_a_folder_for_datasets(output: Storage, place: str) -> None:
    made = export(output.root, "hf", place)
    assert (made.videos, made.failed, made.pending, made.missing) == (8, 1, 1, 0)
    assert (made.files, made.kept) == (8, 0)
    told = pq.read_table(f"{place}/metadata.parquet")
    assert told.column_names[:3] == ["file_name", "id", "prompt"]
    assert not {"uri", "worker", "status"} & set(told.column_names)
    rows = told.to_pylist()
    assert [row["id"] for row in rows] == list(reversed(DONE))
    for row in rows:
        assert row["prompt"] == f"prompt of {row['id']}"[:100]
        assert row["source"] == f"source of {row['id']}"[:100]
        assert (row["frames"], row["guidance_scale"], row["model"]) == (3, 6.0, "checkpoint")
        assert Path(place, row["file_name"]).read_bytes() == bytes_of(output, row["id"])
        assert row["seed"] == DONE.index(row["id"])
    assert [row["num_inference_steps"] for row in rows] == [None, 3, None, 5, None, 7, None, 9]
    # Nothing else: readers take every video that they find.
    files = {path for path in contents(place) if not path.startswith(".")}
    assert files == {"metadata.parquet", *(row["file_name"] for row in rows)}


def test_names_say_nothing_of_splits(tmp_path: Path, place: str) -> None:
    """Of `test-1.mp4` `datasets` would make a split, and leave out all that are in none."""
    ids = ("test-1", "validation.x", "train_2")
    output = put_run(str(tmp_path / "out"), ids=ids, manifest=put_manifest(tmp_path / "m.parquet", ids))
    export(output.root, "hf", place)
    names = pq.read_table(f"{place}/metadata.parquet")["file_name"].to_pylist()
    assert names == [f"videos/00000/00000000{place}.mp4" for place in range(3)]


def test_columns_that_datasets_takes_for_itself(tmp_path: Path, place: str) -> None:
    manifest = put_manifest(
        tmp_path / "m.parquet", ("a",), video=["clip.mp4"], image=[{"bytes": b"1"}], old_file_name=["x"]
    )
    output = put_run(str(tmp_path / "out"), ids=("a",), manifest=manifest)
    run = output.read_bytes("run.yaml").replace(b"[source]", b"[source, old_file_name]")
    output.write_bytes("run.yaml", run)
    export(output.root, "hf", place)
    names = pq.read_schema(f"{place}/metadata.parquet").names
    assert {"video_given", "old_file_name_given"} <= set(names)
    assert not {"video", "old_file_name", "image"} & set(names)


@pytest.mark.parametrize("to", ["hf", "webdataset"])
def test_credentials_of_media_are_not_handed_on(tmp_path: Path, place: str, to: str) -> None:
    signed = "s3://me:pw@bucket/b.png?X-Amz-Signature=5ec4e7"
    manifest = put_manifest(tmp_path / "m.parquet", ("a", "b", "c"), image=["a?.png", signed, None])
    output = put_run(str(tmp_path / "out"), ids=("a", "b", "c"), manifest=manifest)
    default = signed.replace("/b.png", "/c.png").encode()
    output.write_bytes(
        "run.yaml", output.read_bytes("run.yaml").replace(b"{guid", b"{image: '%b', guid" % default)
    )
    export(output.root, to, place)
    if to == "hf":
        told = pq.read_table(f"{place}/metadata.parquet")["image"].to_pylist()
    else:
        told = [json.loads(files["json"])["image"] for files in samples(place).values()]
    assert [Path(told[0]).name, *told[1:]] == ["a?.png", "s3://bucket/b.png", "s3://bucket/c.png"]


def test_folders_are_small(output: Storage, place: str) -> None:
    export(output.root, "hf", place, policy=ExportPolicy(folder_rows=4))
    sizes = [len(list(folder.iterdir())) for folder in sorted(Path(place, "videos").iterdir())]
    assert sizes == [3, 4, 1]
    names = pq.read_table(f"{place}/metadata.parquet")["file_name"].to_pylist()
    assert all(Path(place, name).is_file() for name in names)


@pytest.mark.parametrize("format", media.FORMATS)
def test_shards(tmp_path: Path, place: str, format: str) -> None:
    manifest = put_manifest(tmp_path / "manifest.parquet")
    output = put_run(str(tmp_path / "out"), format, manifest=manifest)
    made = export(output.root, "webdataset", place, shard_rows=3)
    assert (made.videos, made.files, made.missing) == (8, 3, 0)
    found = samples(place)
    assert list(found) == [f"00000000{row}" for row in range(1, 9)]
    for row, sample in zip(reversed(DONE), found.values(), strict=True):
        told = json.loads(sample.pop("json"))
        assert (told["id"], told["prompt"], told["frames"]) == (row, f"prompt of {row}"[:100], 3)
        assert datetime.fromisoformat(told["finished_at"]).tzinfo is not None
        if format == "png":
            assert list(sample) == [f"{frame:06d}.png" for frame in range(3)]
            continue
        assert sample == {format: bytes_of(output, row)}
    assert {shard for shard, _, _ in members(place)} == {f"0000{number}.tar" for number in range(3)}


def test_shards_are_the_same_bytes(output: Storage, place: str) -> None:
    for name in ("a", "b"):
        export(output.root, "webdataset", place + name, shard_rows=3)
    assert contents(place + "a") == contents(place + "b")
    for _, member, _ in members(place + "a"):
        assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")


def test_shards_keep_their_size(output: Storage, place: str) -> None:
    for shard_size, count in (("1GB", 1), ("21kB", 2), ("20kB", 4), ("1kB", 8)):
        folder = place + shard_size
        export(output.root, "webdataset", folder, shard_size=shard_size)
        sizes = [size for name, size in open_storage(folder).sizes().items() if name.endswith(".tar")]
        assert len(sizes) == count
        if count < 8:
            assert max(sizes) <= parse_bytes(shard_size)
        assert len(samples(folder)) == 8


class Killed(BaseException):
    """Stands for SIGKILL: no `except` of ours takes it."""


def dies(original: Callable, moments: Iterator[int], mortal: int) -> Callable:
    def call(*arguments: Any) -> Any:
        if next(moments) == mortal:
            raise Killed
        return original(*arguments)

    return call


@pytest.mark.parametrize("to", ["hf", "webdataset"])
def test_killed_at_any_moment(
    output: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    whole = str(tmp_path / "whole")
    export(output.root, to, whole, shard_rows=3)
    one_by_one = ExportPolicy(copiers=1, packers=1)
    methods = {"hf": ("put_file", "write_bytes"), "webdataset": ("create", "write_bytes")}[to]
    originals = {name: getattr(Storage, name) for name in methods}
    kept = []
    for mortal in range(1, 20):
        moments = iter(range(1, 100))
        for name, original in originals.items():
            monkeypatch.setattr(Storage, name, dies(original, moments, mortal))
        place = str(tmp_path / str(mortal))
        died = False
        try:
            export(output.root, to, place, shard_rows=3, policy=one_by_one)
        except Killed:
            died = True
            # As it is left by a process that cannot tidy up.
            for file in [file for file in Path(place).rglob("*") if file.is_file()]:
                file.with_name(f".{'0' * 32}.tmp").write_bytes(b"half")
        for name, original in originals.items():
            monkeypatch.setattr(Storage, name, original)
        kept.append(export(output.root, to, place, shard_rows=3).kept)
        assert contents(place) == contents(whole)
        if not died:
            break
    # What was there was not written again.
    assert kept == sorted(kept)
    assert kept[-1] == {"hf": 8, "webdataset": 3}[to]
    assert len(kept) > 4


@pytest.mark.parametrize("to", ["hf", "webdataset"])
def test_videos_that_are_not_what_the_ledger_says_are_left_out(output: Storage, place: str, to: str) -> None:
    Path(output.uri(path_in_output(output, "a"))).unlink()
    with open(output.uri(path_in_output(output, "Case")), "ab") as file:
        file.write(b"more")
    made = export(output.root, to, place)
    assert (made.videos, made.missing) == (6, 2)
    assert {left.id for left in made.left} == {"a", "Case"}
    if to == "hf":
        ids = pq.read_table(f"{place}/metadata.parquet")["id"].to_pylist()
    else:
        ids = [json.loads(sample["json"])["id"] for sample in samples(place).values()]
    assert ids == [row for row in reversed(DONE) if row not in ("a", "Case")]
    again = export(output.root, to, place)
    assert (again.videos, again.missing) == (6, 2)
    # Marked as lost they are pending.
    verify(output.root, repair=True)
    made = export(output.root, to, place + "2")
    assert (made.videos, made.pending, made.missing) == (6, 3, 0)


@pytest.mark.parametrize("format", ["npy", "png"])
def test_a_shard_that_lacks_a_row_is_made_again(tmp_path: Path, place: str, format: str) -> None:
    """Also where it has the size of one that lacks none, or that size is not known."""
    manifest = put_manifest(tmp_path / "m.parquet")
    output = put_run(str(tmp_path / "out"), format, manifest=manifest)
    shown = output.uri(next(path for path in output.list("videos") if "case" in path))
    hidden = f"{shown}.hidden"
    Path(shown).rename(hidden)
    for _ in range(2):
        made = export(output.root, "webdataset", place)
        assert (made.videos, made.missing, made.kept) == (7, 1, 0)
        left = json.loads(Path(place, ".00000.tar.left.json").read_bytes())
        assert list(left.values()) == ["its video is not there"]
        assert [row.id for row in made.left] == list(left)
    Path(hidden).rename(shown)
    for kept in (0, 1):
        made = export(output.root, "webdataset", place)
        assert (made.videos, made.missing, made.kept) == (8, 0, kept)
        assert set(contents(place)) == {"00000.tar", ".export.json"}


def test_a_manifest_that_was_changed_for_the_worse_is_named(
    output: Storage, tmp_path: Path, place: str
) -> None:
    changed = put_manifest(tmp_path / "changed.parquet", num_inference_steps=[2.5] * len(IDS))
    with pytest.raises(Refused, match=r"changed\.parquet: column 'num_inference_steps': .*2\.5"):
        export(output.root, "hf", place, manifest=changed)


def test_a_folder_is_listed_once(output: Storage, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However small the manifest's row groups are."""
    listed: list[str] = []
    sizes = Storage.sizes

    def count(storage: Storage, prefix: str = "") -> dict[str, int]:
        listed.append(prefix)
        return sizes(storage, prefix)

    monkeypatch.setattr(Storage, "sizes", count)
    export(output.root, "hf", place)
    assert listed == ["videos/00000"]


def test_the_video_in_place_is_the_latest(output: Storage, place: str) -> None:
    with LedgerWriter(output, "w1") as writer:
        again = replace(put_video(output, "a", 77), extra={}, fps=24.0)
        writer.append(again)
    put_failure(output, "a")
    made = export(output.root, "hf", place)
    assert (made.videos, made.failed) == (8, 1)
    rows = {row["id"]: row for row in pq.read_table(f"{place}/metadata.parquet").to_pylist()}
    assert (rows["a"]["seed"], rows["a"]["fps"], rows["a"]["sha256"]) == (77, 24.0, again.sha256)


def test_what_is_in_the_destination(output: Storage, place: str) -> None:
    Path(place).mkdir()
    Path(place, "mine.txt").write_text("mine")
    with pytest.raises(Refused, match=r"something else in it, such as mine\.txt; give an empty folder"):
        export(output.root, "hf", place)
    Path(place, "mine.txt").unlink()
    export(output.root, "hf", place)
    with pytest.raises(Refused, match="has another export"):
        export(output.root, "webdataset", place)
    with LedgerWriter(output, "w1") as writer:
        writer.append(replace(put_video(output, "late", 50), extra={}))
    with pytest.raises(Refused, match="as it was before more rows were done"):
        export(output.root, "hf", place)
    for inside in (output.root, f"{output.root}/videos/x"):
        with pytest.raises(Refused, match="lies in the output that is exported"):
            export(output.root, "hf", inside)


def test_what_cannot_be_exported(output: Storage, tmp_path: Path, place: str) -> None:
    with pytest.raises(Refused, match="--to: 'tfrecord' is not allowed; allowed: hf, webdataset"):
        export(output.root, "tfrecord", place)
    with pytest.raises(Refused, match="--shard-size: '1000'"):
        export(output.root, "webdataset", place, shard_size="1000")
    with pytest.raises(Refused, match="upload-large-folder"):
        export(output.root, "hf", "hf://datasets/me/videos")
    with pytest.raises(Refused, match="its own memory"):
        export(output.root, "webdataset", "memory://videos")
    gifs = put_run(str(tmp_path / "gifs"), "gif", ids=("a",))
    with pytest.raises(Refused, match="its videos are gif; --to hf takes mp4"):
        export(gifs.root, "hf", place)
    manifest = Path(output.root).parent / "manifest.parquet"
    moved = manifest.rename(manifest.with_name("moved.parquet"))
    with pytest.raises(Refused, match=r"manifest\.parquet.*--manifest"):
        export(output.root, "hf", place)
    assert not Path(place).exists()
    assert export(output.root, "hf", place, manifest=str(moved)).videos == 8


def test_more_rows_than_are_joined_at_once(output: Storage, place: str) -> None:
    export(output.root, "webdataset", place + "1")
    few = ExportPolicy(join=JoinPolicy(run_rows=1, max_runs=4))
    export(output.root, "webdataset", place + "2", policy=few)
    one, two = ({name: data for name, data in contents(place + n).items() if name[0] != "."} for n in "12")
    assert one == two


@pytest.mark.parametrize("ids", [(), ("late",)])
def test_nothing_is_done(tmp_path: Path, place: str, ids: tuple[str, ...]) -> None:
    manifest = put_manifest(tmp_path / "m.parquet", ids)
    output = put_run(str(tmp_path / "out"), ids=(), manifest=manifest)
    for to in ("hf", "webdataset"):
        made = export(output.root, to, place + to)
        assert (made.videos, made.files, made.pending) == (0, 0, len(ids))
    assert pq.read_table(f"{place}hf/metadata.parquet").num_rows == 0
    assert verify(output.root, deep=True).ok


def test_a_manifest_without_ids(tmp_path: Path, place: str) -> None:

    path = tmp_path / "m.parquet"
    pq.write_table(pa.table({"prompt": pa.array(["x", "y"]).dictionary_encode(), "source": [1, 2]}), path)
    ids = tuple(open_manifest(path).ids())
    output = put_run(str(tmp_path / "out"), ids=ids, manifest=str(path))
    assert export(output.root, "hf", place).videos == 2
    told = pq.read_table(f"{place}/metadata.parquet")
    assert told.select(["prompt", "source"]).to_pylist() == [
        {"prompt": "x", "source": 1},
        {"prompt": "y", "source": 2},
    ]


def test_values_that_json_does_not_know(tmp_path: Path, place: str) -> None:
    path = tmp_path / "m.parquet"
    values = {
        "t": np.datetime64("2026-01-01T12:00:00.5", "ms"),
        "n": float("nan"),
        "b": b"\x00\xff",
        "l": [1.5],
    }
    pq.write_table(pa.Table.from_pylist([{"id": "a", "prompt": "p", "source": values}]), path)
    output = put_run(str(tmp_path / "out"), ids=("a",), manifest=str(path))
    export(output.root, "webdataset", place)
    (sample,) = samples(place).values()
    source = json.loads(sample["json"], parse_constant=pytest.fail)["source"]
    assert source == {"t": "2026-01-01T12:00:00.500000", "n": None, "b": "AP8=", "l": [1.5]}


@pytest.mark.parametrize("to", ["hf", "webdataset"])
def test_from_s3_to_s3_and_back(s3_bucket: str, tmp_path: Path, place: str, to: str) -> None:
    manifest = put_manifest(tmp_path / "manifest.parquet")
    output = put_run(f"s3://{s3_bucket}/run", ids=DONE[:3], manifest=manifest)
    remote = f"s3://{s3_bucket}/exported/{to}"
    assert export(output.root, to, remote, shard_rows=2).videos == 3
    again = export(output.root, to, remote, shard_rows=2)
    assert again.kept == again.files == (3 if to == "hf" else 2)
    assert export(output.root, to, place, shard_rows=2).videos == 3
    assert contents(remote) == contents(place)


def test_the_command(output: Storage, place: str, vidgen: Vidgen) -> None:
    status, shown, _ = vidgen("export", output.root, "--to", "webdataset", place, "--shard-rows", 4)
    assert (status, "8 rows in 2 shards, 0 of them from before" in shown) == (0, True)
    assert "left out: 1 failed" in shown
    assert "left out: 1 pending" in shown
    Path(output.uri(path_in_output(output, "line\nbreak"))).unlink()
    status, shown, said = vidgen("export", output.root, "--to", "hf", place + "2")
    assert (status, "left out: 1 missing or torn" in shown) == (1, True)
    assert r"id 'line\nbreak': its video is not there" in said
    status, _, said = vidgen("export", output.root, "--to", "zip", place)
    assert (status, "allowed: hf, webdataset" in said) == (2, True)


def test_neither_mindspore_nor_ray_is_loaded(output: Storage, place: str) -> None:
    assert heavy_imports("export", output.root, "--to", "hf", place) == "[]"


@pytest.mark.usefixtures("local_ray")
def test_videos_of_other_settings_are_left_out(
    make_spec: Callable[..., RunSpec], make_manifest: Callable[..., str], place: str
) -> None:
    """`metadata.parquet` would say of them what the run and the manifest say now."""
    spec = make_spec(
        make_manifest(
            {"id": "a", "prompt": "raise:oops", "priority": 1},
            {"id": "b", "prompt": "b", "priority": 0},
            {"id": "c", "prompt": "c", "priority": 0},
            {"id": "d", "prompt": "d", "priority": 0},
        ),
        output__format="mp4",
        topology__replicas=1,
        topology__device="auto",
    )
    console = Console(file=io.StringIO())
    assert render(spec, console, engine=FAKE_ENGINE).done == 3

    def exported(name: str) -> tuple[ExportReport, list[dict[str, Any]]]:
        made = export(spec.output.uri, "hf", place + name, engine=FAKE_ENGINE)
        return made, pq.read_table(f"{place}{name}/metadata.parquet").to_pylist()

    made, told = exported("before")
    assert (made.videos, made.failed, made.stale, made.pending, made.unsure) == (3, 1, 0, 0, 0)
    changed = spec.override({"sampling.num_inference_steps": 20, "faults.max_failures": 0})
    some = render(changed, console, engine=FAKE_ENGINE)
    assert some.pending
    made, told = exported("between")
    assert (made.videos, made.failed, made.stale, made.pending) == (some.done, 1, 3 - some.done, 0)
    assert len(told) == some.done
    # Another prompt is another setting.
    make_manifest({"id": "b", "prompt": "b"}, {"id": "c", "prompt": "another"}, {"id": "d", "prompt": "d"})
    assert render(changed, console, engine=FAKE_ENGINE).exit_status == 0
    made, told = exported("after")
    assert (made.videos, made.stale, made.unsure) == (3, 0, 0)
    assert [row["num_inference_steps"] for row in told] == [20, 20, 20]
    # A checkpoint that is not there is not needed for what is done with all rows.
    made = export(spec.output.uri, "hf", place + "without", engine="nowhere")
    assert (made.videos, made.unsure) == (3, 0)
    make_manifest({"id": "b", "prompt": "b"}, {"id": "c", "prompt": "third"}, {"id": "d", "prompt": "d"})
    made, told = exported("stale")
    assert (made.videos, made.stale, [row["id"] for row in told]) == (2, 1, ["b", "d"])


def test_what_cannot_be_compared_is_counted(output: Storage, place: str, vidgen: Vidgen) -> None:
    made = export(output.root, "hf", place)
    assert (made.videos, made.stale, made.unsure) == (8, 0, 8)
    assert "/gone/m" in made.why_unsure
    status, _, said = vidgen("export", output.root, "--to", "hf", place)
    assert (status, "8 may have been rendered with settings other" in said) == (0, True)


EXTRAS: dict[str, tuple[pa.DataType, Any, Any]] = {
    "nothing": (pa.null(), None, None),
    "bool": (pa.bool_(), True, True),
    "int8": (pa.int8(), -1, -1),
    "uint64": (pa.uint64(), 2**64 - 1, 2**64 - 1),
    "float16": (pa.float16(), np.float16(1.5), 1.5),
    "double": (pa.float64(), 0.25, 0.25),
    "decimal": (pa.decimal128(9, 2), Decimal("1.50"), "1.50"),
    "decimal256": (pa.decimal256(50, 2), Decimal("1.50"), "1.50"),
    "string": (pa.string(), "熊", "熊"),
    "large_string": (pa.large_string(), "a", "a"),
    "string_view": (pa.string_view(), "longer than twelve bytes", "longer than twelve bytes"),
    "binary": (pa.binary(), b"a", "YQ=="),
    "large_binary": (pa.large_binary(), b"a", "YQ=="),
    "binary_view": (pa.binary_view(), b"a", "YQ=="),
    "fixed": (pa.binary(3), b"abc", "YWJj"),
    "date": (pa.date32(), date(2020, 1, 2), "2020-01-02"),
    "date64": (pa.date64(), date(2020, 1, 2), "2020-01-02"),
    "time": (pa.time32("ms"), time(1, 2), "01:02:00"),
    "time64": (pa.time64("us"), time(1, 2), "01:02:00"),
    "timestamp": (pa.timestamp("us"), datetime(2020, 1, 2), "2020-01-02T00:00:00"),
    "nanoseconds": (pa.timestamp("ns"), datetime(2020, 1, 2), "2020-01-02T00:00:00"),
    "duration": (pa.duration("us"), timedelta(seconds=1), "0:00:01"),
    "dictionary": (pa.dictionary(pa.int32(), pa.string()), "a", "a"),
    "list": (pa.list_(pa.string_view()), ["a", None], ["a", None]),
    "large_list": (pa.large_list(pa.string_view()), ["a"], ["a"]),
    "list_view": (pa.list_view(pa.string()), ["a"], ["a"]),
    "large_list_view": (pa.large_list_view(pa.binary_view()), [b"a"], ["YQ=="]),
    "struct": (
        pa.struct([("text", pa.string_view()), ("list", pa.list_(pa.binary_view()))]),
        {"text": "a", "list": [b"a"]},
        {"text": "a", "list": ["YQ=="]},
    ),
    "json": (pa.json_(), "[1]", "[1]"),
}
"""Arrow's types that Parquet files hold: a value, and what a JSON object has in its place."""

_PAIRS = [{"key": "a", "value": "b"}]
_HASHES = pa.list_(pa.struct([("h", pa.uint64())]))
_UUID = uuid.UUID(int=7)
CHANGED: dict[str, tuple[pa.Array, Any]] = {
    "map": (pa.array([[("a", "b")], None], pa.map_(pa.string(), pa.string_view())), _PAIRS),
    "uuid": (pa.array([_UUID.bytes, None], pa.uuid()), str(_UUID)),
    "hashes": (pa.array([[{"h": 2**64 - 1}], None], _HASHES), [{"h": 2**64 - 1}]),
    "uuids": (
        pa.StructArray.from_arrays(
            [pa.array([_UUID.bytes] * 2, pa.uuid())], ["u"], mask=pa.array([False, True])
        ),
        {"u": str(_UUID)},
    ),
}
"""Columns of two rows, the second one empty, that `datasets` cannot read; what is stored in their place."""


def test_columns_of_every_type_go_through_ledger_and_exports(tmp_path: Path, place: str) -> None:
    ids = ("a", "b")
    columns = {name: pa.array([value, None], kind) for name, (kind, value, _) in EXTRAS.items()}
    columns |= {name: column for name, (column, _) in CHANGED.items()}
    changed = {name: value for name, (_, value) in CHANGED.items()}
    manifest = put_manifest(tmp_path / "m.parquet", ids, **columns)
    output = put_run(str(tmp_path / "out"), ids=(), manifest=manifest)
    run = output.read_bytes("run.yaml")
    output.write_bytes("run.yaml", run.replace(b"[source]", f"[{', '.join(columns)}]".encode()))
    opened = open_manifest(manifest, passthrough=tuple(columns))
    assert check(opened).ok
    with LedgerWriter(output, "w", opened.extra_schema, max_entries=1) as writer:
        for number, row in enumerate(opened.rows()):
            writer.append(replace(put_video(output, row.id, number), extra=row.extra))
    parts = pq.read_table(Path(output.root, "ledger")).select(list(columns)).sort_by("string").to_pylist()
    assert compact(output, min_age=timedelta()).after == 1
    (whole,) = Path(output.root, "ledger").iterdir()
    stored = pq.read_table(whole).select(list(columns)).sort_by("string").to_pylist()
    values = {name: value for name, (_, value, _) in EXTRAS.items()} | changed
    assert stored == parts == [values, dict.fromkeys(columns)]

    export(output.root, "hf", f"{place}-hf")
    told = pq.read_table(f"{place}-hf/metadata.parquet").select(list(columns))
    assert told.to_pylist() == stored
    assert all(readers_take(kind) for kind in told.schema.types)
    # `videofolder` breaks at the higher half of their values.
    assert pa.uint64() not in told.schema.types
    export(output.root, "webdataset", place)
    first, second = (json.loads(files["json"]) for files in samples(place).values())
    plain = {name: value for name, (_, _, value) in EXTRAS.items()} | changed
    assert {name: first[name] for name in columns} == plain
    assert {name: second[name] for name in columns} == dict.fromkeys(columns)
