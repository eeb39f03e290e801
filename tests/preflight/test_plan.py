"""Plans of runs: rows with their defaults, in their order; outputs that cannot be written. No Ray."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.preflight.plans import MakeManifest, MakeSpec, enter, plan_of, record, rows_of
from vidgen_dist.errors import Refused
from vidgen_dist.ledger import LedgerEntry, LedgerWriter
from vidgen_dist.manifest import row_seed
from vidgen_dist.output.run_file import load_spec
from vidgen_dist.storage.failures import StorageError
from vidgen_dist.storage.folder import Storage, open_storage


def test_rows_get_defaults_of_row_then_run_then_model(
    make_spec: MakeSpec, make_manifest: MakeManifest
) -> None:
    manifest = make_manifest({"id": "a", "prompt": "x", "num_frames": 3}, {"id": "b", "prompt": "y"})
    plan = plan_of(make_spec(manifest, sampling__num_frames=5, output__fps=12.0, seed=3))
    first, second = rows_of(plan)
    assert (first.request.num_frames, second.request.num_frames) == (3, 5)
    assert first.request.fps == 12.0
    assert first.request.num_inference_steps == 2
    assert first.request.seed == row_seed(3, "a")
    assert first.attempt == 1


def test_a_seed_of_the_row_or_the_run_is_kept(make_spec: MakeSpec, make_manifest: MakeManifest) -> None:
    manifest = make_manifest({"id": "a", "prompt": "x", "seed": 5}, {"id": "b", "prompt": "y", "seed": None})
    assert [row.request.seed for row in rows_of(plan_of(make_spec(manifest)))] == [5, row_seed(0, "b")]
    plan = plan_of(make_spec(manifest, sampling__seed=9))
    assert [row.request.seed for row in rows_of(plan)] == [5, 9]


def test_rows_come_by_priority_and_shape_with_their_attempts(
    make_spec: MakeSpec, make_manifest: MakeManifest
) -> None:
    def row(row_id: str, num_frames: int | None, priority: int | None) -> dict[str, Any]:
        return {"id": row_id, "prompt": "x", "num_frames": num_frames, "priority": priority}

    # The model's own number of frames is 2.
    rows = [row("a", None, None), row("b", 5, None), row("c", 2, 0), row("d", 5, -1), row("e", 5, 3)]
    spec = make_spec(make_manifest(*rows), manifest__passthrough=["priority"])
    plan = plan_of(spec)
    everything = rows_of(plan)
    assert [each.id for each in everything] == ["e", "a", "c", "b", "d"]
    assert [each.passthrough["priority"] for each in everything] == [3, None, 0, None, -1]
    assert plan.manifest.unknown_columns == ()
    enter(plan, everything[2:3], "failed")
    enter(plan, everything[:2])
    # The run's default is b's and d's number of frames.
    five = plan_of(spec.override({"sampling.num_frames": 5}))
    assert [(each.id, each.attempt) for each in rows_of(five)] == [("a", 1), ("b", 1), ("c", 2), ("d", 1)]
    assert five.done == 1


def test_an_output_whose_uri_is_secret_is_refused(make_spec: MakeSpec, make_manifest: MakeManifest) -> None:
    for uri in ("memory://out?X-Amz-Signature=abcdef", "memory://user:abcdef@out/x", "https://host/out"):
        with pytest.raises(Refused, match=r"the URI holds a|https:// can only be read") as caught:
            plan_of(make_spec(make_manifest("one"), output__uri=uri))
        assert "abcdef" not in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ({"sampling__num_frmes": 9}, ["sampling.num_frmes", "did you mean sampling.num_frames?"]),
        ({"sampling__num_frames": "many"}, ["sampling.num_frames", "'many'", "whole number"]),
        ({"sampling__fps": 8}, ["sampling.fps", "output.fps"]),
        ({"sampling__prompt": "x"}, ["sampling.prompt", "each row has its own"]),
        ({"model__task": "video-to-video"}, ["video-to-video"]),
        ({"model__dtype": "bfloat16"}, ["bfloat16", "float32"]),
        ({"manifest__passthrough": ["source"]}, ["'source'", "pass through"]),
        ({"output__uri": "s3://key:secret@bucket/out"}, ["s3://bucket/out", "password"]),
    ],
)
def test_a_bad_setting_is_named(
    make_spec: MakeSpec, make_manifest: MakeManifest, flags: dict[str, Any], parts: list[str]
) -> None:
    with pytest.raises(Refused) as refused:
        plan_of(make_spec(make_manifest("one"), **flags))
    for part in parts:
        assert part in str(refused.value)
    assert "secret" not in str(refused.value)


def test_an_output_goes_on_with_the_types_that_its_ledger_has(make_spec: MakeSpec, tmp_path: Path) -> None:
    maps = pa.map_(pa.string(), pa.int64())
    path = str(tmp_path / "m.parquet")
    pq.write_table(pa.table({"prompt": ["p"], "id": ["a"], "m": pa.array([[("x", 1)]], maps)}), path)
    spec = make_spec(path, manifest__passthrough=["m"])
    plan = plan_of(spec)
    assert pa.types.is_list(plan.passthrough.field("m").type)
    record(plan)
    with LedgerWriter(plan.output, "w", pa.schema([("m", maps)])) as writer:
        moment = datetime.now(UTC)
        writer.append(
            LedgerEntry(
                id="a", status="failed", fingerprint="f", attempt=1, finished_at=moment, error_class="OSError"
            )
        )
    assert plan_of(spec).passthrough == pa.schema([("m", maps)])


def test_an_output_in_memory_is_refused(make_spec: MakeSpec, make_manifest: MakeManifest) -> None:
    with pytest.raises(Refused, match="each process has its own memory"):
        plan_of(make_spec(make_manifest("one"), output__uri="memory://out"))


def test_an_output_that_cannot_be_written(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Refused, match="Not a directory"):
        plan_of(make_spec(make_manifest("one"), output__uri=str(tmp_path / "file" / "out")))


def test_an_output_that_refuses(
    make_spec: MakeSpec, make_manifest: MakeManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise StorageError("403 forbidden")

    plan = plan_of(make_spec(make_manifest("one")))
    monkeypatch.setattr(Storage, "write_bytes", refuse)
    with pytest.raises(Refused, match="cannot be used for output: 403 forbidden"):
        record(plan)


def test_s3(make_spec: MakeSpec, make_manifest: MakeManifest, s3_bucket: str) -> None:
    there = open_storage(f"s3://{s3_bucket}/in")
    there.write_bytes("m.parquet", Path(make_manifest("one", "two")).read_bytes())
    spec = make_spec(f"s3://{s3_bucket}/in/*.parquet", output__uri=f"s3://{s3_bucket}/out")
    plan = plan_of(spec)
    enter(plan, rows_of(plan)[:1])
    assert plan_of(load_spec(f"s3://{s3_bucket}/out/run.yaml")).done == 1
