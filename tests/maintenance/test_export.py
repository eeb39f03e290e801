"""`vidgen export`: what is exported and what is left out; kills; the command."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from safetensors.numpy import save_file

from tests.commands import Vidgen, run_apart
from tests.fake_engine import FAKE_ENGINE
from tests.maintenance.exports import DONE, IDS, contents, put_failure, put_manifest, samples
from tests.maintenance.outputs import path_in_output, put_run, put_video
from vidgen_dist.errors import Refused
from vidgen_dist.ledger import LedgerWriter
from vidgen_dist.maintenance.export import export
from vidgen_dist.maintenance.export_writer import ExportPolicy, ExportReport
from vidgen_dist.maintenance.manifest_join import JoinPolicy
from vidgen_dist.maintenance.verification import verify
from vidgen_dist.manifest import open_manifest
from vidgen_dist.runtime.driver.render import render
from vidgen_dist.spec import RunSpec
from vidgen_dist.storage.folder import Storage


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
        exported_rows = pq.read_table(f"{place}/metadata.parquet")["image"].to_pylist()
    else:
        exported_rows = [json.loads(files["json"])["image"] for files in samples(place).values()]
    assert [Path(exported_rows[0]).name, *exported_rows[1:]] == [
        "a?.png",
        "s3://bucket/b.png",
        "s3://bucket/c.png",
    ]


class Killed(BaseException):
    """Stands for SIGKILL: no `except` of ours catches it."""


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


def test_a_manifest_that_was_changed_for_the_worse_is_named(
    output: Storage, tmp_path: Path, place: str
) -> None:
    changed = put_manifest(tmp_path / "changed.parquet", num_inference_steps=[2.5] * len(IDS))
    with pytest.raises(Refused, match=r"changed\.parquet: column 'num_inference_steps': .*2\.5"):
        export(output.root, "hf", place, manifest=changed)


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
        with pytest.raises(Refused, match="is inside the exported output"):
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
    exported_rows = pq.read_table(f"{place}/metadata.parquet")
    assert exported_rows.select(["prompt", "source"]).to_pylist() == [
        {"prompt": "x", "source": 1},
        {"prompt": "y", "source": 2},
    ]


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
    assert run_apart("export", output.root, "--to", "hf", place)[1] == "[]"


@pytest.mark.usefixtures("local_ray")
def test_videos_of_other_settings_are_left_out(
    make_spec: Callable[..., RunSpec], make_manifest: Callable[..., str], place: str
) -> None:
    """`metadata.parquet` would describe them with the present run and manifest."""
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

    made, exported_rows = exported("before")
    assert (made.videos, made.failed, made.stale, made.pending, made.unsure) == (3, 1, 0, 0, 0)
    changed = spec.override({"sampling.num_inference_steps": 20, "faults.max_failures": 0})
    some = render(changed, console, engine=FAKE_ENGINE)
    assert some.pending
    made, exported_rows = exported("between")
    assert (made.videos, made.failed, made.stale, made.pending) == (some.done, 1, 3 - some.done, 0)
    assert len(exported_rows) == some.done
    # Another prompt is another setting.
    make_manifest({"id": "b", "prompt": "b"}, {"id": "c", "prompt": "another"}, {"id": "d", "prompt": "d"})
    assert render(changed, console, engine=FAKE_ENGINE).exit_status == 0
    made, exported_rows = exported("after")
    assert (made.videos, made.stale, made.unsure) == (3, 0, 0)
    assert [row["num_inference_steps"] for row in exported_rows] == [20, 20, 20]
    # A checkpoint that is not there is not needed for what is done with all rows.
    made = export(spec.output.uri, "hf", place + "without", engine="nowhere")
    assert (made.videos, made.unsure) == (3, 0)
    make_manifest({"id": "b", "prompt": "b"}, {"id": "c", "prompt": "third"}, {"id": "d", "prompt": "d"})
    made, exported_rows = exported("stale")
    assert (made.videos, made.stale, [row["id"] for row in exported_rows]) == (2, 1, ["b", "d"])


def test_what_cannot_be_compared_is_counted(output: Storage, place: str, vidgen: Vidgen) -> None:
    made = export(output.root, "hf", place)
    assert (made.videos, made.stale, made.unsure) == (8, 0, 8)
    assert "/gone/m" in made.why_unsure
    status, _, said = vidgen("export", output.root, "--to", "hf", place)
    assert (status, "8 may have been rendered with settings other" in said) == (0, True)


def test_loras_alone_and_in_lists(
    make_spec: Callable[..., RunSpec], make_manifest: Callable[..., str], tmp_path: Path, place: str
) -> None:
    """Columns of single texts and numbers are exported as the lists that they mean."""
    save_file({"x.diff": np.ones((2, 2), np.float32)}, tmp_path / "a.safetensors")
    lora = str(tmp_path / "a.safetensors")
    spec = make_spec(
        make_manifest(
            {"id": "a", "prompt": "a", "lora": lora, "lora_scale": 2},
            {"id": "b", "prompt": "b", "lora": None, "lora_scale": None},
        ),
        output__format="mp4",
        topology__replicas=1,
    )
    assert render(spec, Console(file=io.StringIO()), engine=FAKE_ENGINE).done == 2
    for to in ("hf", "webdataset"):
        made = export(spec.output.uri, to, f"{place}-{to}", engine=FAKE_ENGINE)
        assert (made.videos, made.unsure) == (2, 0)
    rows = pq.read_table(f"{place}-hf/metadata.parquet").to_pylist()
    assert [(row["lora"], row["lora_scale"]) for row in rows] == [([lora], [2.0]), (None, None)]
    assert [row["loras"] and row["loras"][0]["scale"] for row in rows] == [2.0, None]
