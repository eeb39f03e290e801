"""Which rows are done, have failed, or are to be rendered."""

from __future__ import annotations

import contextlib
import dataclasses
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.preflight.plans import MakeManifest, MakeSpec, enter, plan_of, record, rows_of
from vidgen_dist.errors import Refused
from vidgen_dist.media import media_digest
from vidgen_dist.output import resume
from vidgen_dist.output.pending_row import PendingRow
from vidgen_dist.output.resume import LookupPolicy
from vidgen_dist.output.run_file import load_spec
from vidgen_dist.processes import InlineExecutor


def test_done_rows_are_left_out_and_failed_rows_are_tried_again(
    make_spec: MakeSpec, make_manifest: MakeManifest
) -> None:
    spec = make_spec(make_manifest("one", "two", "three"))
    plan = plan_of(spec)
    a, b, _ = rows_of(plan)
    enter(plan, [a])
    enter(plan, [b], "failed")
    again = plan_of(spec)
    assert again.done == 1
    assert [(row.id, row.attempt) for row in rows_of(again)] == [("b", 2), ("c", 1)]


def test_retry_chooses_rows_that_have_failed_and_are_not_done(
    make_spec: MakeSpec, make_manifest: MakeManifest
) -> None:
    spec = make_spec(make_manifest("one", "two", "three", "four"))
    plan = plan_of(spec)
    a, b, c, _ = rows_of(plan)
    enter(plan, [a, b], "failed")
    enter(plan, [b])
    enter(plan, [c], "failed", error="MediaError")
    again = plan_of(spec.override({"manifest.retry": "failed"}))
    assert [(row.id, row.attempt) for row in rows_of(again)] == [("a", 2), ("c", 2)]
    assert (again.total, again.done) == (3, 1)
    assert [row.id for row in rows_of(plan_of(spec.override({"manifest.retry": "failed:MediaError"})))] == [
        "c"
    ]
    none = plan_of(spec.override({"manifest.retry": "failed:Media"}))
    assert (rows_of(none), none.total, none.done) == ([], 1, 1)
    # It is for one run: the next run renders all rows.
    record(again)
    assert load_spec(again.output.uri("run.yaml")).manifest.retry is None
    # The fingerprint has changed: they are tried with it for the first time.
    changed = plan_of(spec.override({"manifest.retry": "failed", "seed": 4}))
    assert [(row.id, row.attempt) for row in rows_of(changed)] == [("a", 1), ("c", 1)]
    enter(changed, rows_of(changed)[:1])
    still = spec.override({"manifest.retry": "failed"})
    assert [row.id for row in rows_of(plan_of(still))] == ["c"]


def test_retry_on_a_new_output_chooses_nothing(make_spec: MakeSpec, make_manifest: MakeManifest) -> None:
    plan = plan_of(make_spec(make_manifest("one"), manifest__retry="failed"))
    assert (plan.total, rows_of(plan)) == (0, [])


@pytest.mark.parametrize("retry", ["done", "failed:", "failed:A B", "Failed"])
def test_another_retry_is_refused(make_spec: MakeSpec, make_manifest: MakeManifest, retry: str) -> None:
    with pytest.raises(Refused, match=r"manifest\.retry.*failed or failed:CLASS"):
        make_spec(make_manifest("one"), manifest__retry=retry)


@pytest.mark.parametrize("processes", [None, 2])
def test_every_kind_of_row_is_found_again(
    make_spec: MakeSpec, make_manifest: MakeManifest, processes: int | None
) -> None:
    """Rows with and without id, seed and quotes; similar and not; hashed in this process and in others."""

    def number(row: PendingRow) -> int:
        return int(row.request.prompt.split()[0])

    lookup = LookupPolicy(processes_min_rows=1, processes=processes) if processes else LookupPolicy()
    rows = [
        {
            "id": None if n % 5 == 0 else f"row {n}",
            "prompt": f'{n} "é" \\',
            "negative_prompt": None,
            "num_frames": [3, None, 5][n % 3],
            "guidance_scale": [0.0, -0.0, None, 7.5][n % 4],
            "seed": None if n % 2 else n,
        }
        for n in range(40)
    ]
    spec = make_spec(make_manifest(*rows), seed=7)
    plan = plan_of(spec)
    everything = sorted(rows_of(plan), key=number)
    enter(plan, everything[::2])
    enter(plan, everything[1::4], "failed")
    again = plan_of(spec, lookup)
    assert again.records.is_done.tolist() == [n % 2 == 0 for n in range(40)]
    assert again.records.attempts.tolist() == [int(n % 4 != 3) for n in range(40)]
    assert sorted(rows_of(again), key=number) == [
        dataclasses.replace(row, attempt=1 + int(n % 4 != 3), maybe_stored=True)
        for n, row in enumerate(everything)
        if n % 2
    ]
    floats = [row | {"seed": None if row["seed"] is None else float(row["seed"])} for row in rows]
    assert plan_of(make_spec(make_manifest(*floats), seed=7), lookup).done == 20


@pytest.mark.parametrize(("size", "most"), [(0, 1), (10 * 2**20, 10)])
def test_prompts_that_wait_to_be_hashed_are_bounded(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, most: int
) -> None:
    """Including those submitted and not yet used; a batch is one row with a prompt of a megabyte."""
    prompts = [f"{n} " + "x" * 2**20 for n in range(12)]
    pq.write_table(
        pa.table({"id": list(map(str, range(12))), "prompt": prompts}), tmp_path / "m", row_group_size=1
    )
    spec = make_spec(str(tmp_path / "m"))
    plan = plan_of(spec)
    enter(plan, rows_of(plan))
    waiting, highest = 0, 0

    class Late(Future[Any]):
        def result(self, timeout: float | None = None) -> Any:
            nonlocal waiting
            waiting -= 1
            return super().result(timeout)

    class Counting(InlineExecutor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            nonlocal waiting, highest
            waiting += 1
            highest = max(highest, waiting)
            late = Late()
            late.set_result(fn(*args, **kwargs))
            return late

    monkeypatch.setattr(resume, "open_pool", lambda _: contextlib.nullcontext(Counting()))
    assert plan_of(spec, LookupPolicy(ahead_bytes=size)).done == 12
    assert (waiting, highest) == (0, most)


def test_priority_decides_no_pixels(make_spec: MakeSpec, make_manifest: MakeManifest) -> None:
    plan = plan_of(make_spec(make_manifest({"prompt": "x"}, {"prompt": "y"})))
    enter(plan, rows_of(plan))
    first = make_manifest({"prompt": "x", "priority": 1}, {"prompt": "y", "priority": 2})
    assert plan_of(make_spec(first)).done == 2


def test_done_rows_depend_on_pixels_and_not_on_workers_shards_or_order(
    make_spec: MakeSpec, make_manifest: MakeManifest
) -> None:
    manifest = make_manifest({"id": "a", "prompt": "x"}, {"id": "b", "prompt": "y"})
    plan = plan_of(make_spec(manifest))
    enter(plan, rows_of(plan))
    turned = make_manifest({"prompt": "y", "id": "b"}, {"prompt": "x", "id": "a"}, name="turned.parquet")
    assert plan_of(make_spec(turned, topology__replicas=7, topology__shard_size=1)).done == 2
    # npy has no quality setting.
    assert plan_of(make_spec(manifest, output__crf=30)).done == 2
    for change in (
        {"sampling__num_frames": 5},
        {"seed": 1},
        {"output__fps": 9.0},
        {"model__revision": "other"},
    ):
        assert plan_of(make_spec(manifest, **change)).done == 0


def test_only_the_content_of_an_image_counts(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path
) -> None:
    image = tmp_path / "fox.png"
    Image.new("RGB", (8, 8), "red").save(image)
    manifest = make_manifest({"id": "a", "prompt": "x", "image": "fox.png"})
    spec = make_spec(manifest, model__task="image-to-video")
    plan = plan_of(spec)
    (row,) = rows_of(plan)
    enter(plan, [row], media={"image": media_digest(image)})
    assert plan_of(spec).done == 1
    moved = tmp_path / "elsewhere.png"
    moved.write_bytes(image.read_bytes())
    other = make_manifest({"id": "a", "prompt": "x", "image": "elsewhere.png"}, name="m2.parquet")
    assert plan_of(make_spec(other, model__task="image-to-video")).done == 1
    Image.new("RGB", (8, 8), "blue").save(image)
    assert plan_of(spec).done == 0
    image.unlink()
    assert plan_of(spec).done == 0
