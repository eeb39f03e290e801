"""What is refused before anything starts, and what is left out because it is done. No Ray."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import shutil
from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests import fake_engine
from tests.fake_engine import FAKE_ENGINE
from vidgen_dist.engine import ENGINE, OpenedModel
from vidgen_dist.errors import Refused
from vidgen_dist.ledger import LedgerEntry, LedgerWriter
from vidgen_dist.media import media_digest
from vidgen_dist.output import resume
from vidgen_dist.output.fingerprint import row_seed
from vidgen_dist.output.pending_row import PendingRow
from vidgen_dist.output.run_file import load_spec, write_run_file
from vidgen_dist.preflight.manifest_check import check_manifest
from vidgen_dist.preflight.plan import Plan, make_plan, open_run
from vidgen_dist.processes import InlineExecutor
from vidgen_dist.request import ResolvedRequest
from vidgen_dist.spec import ModelOptions, RunSpec
from vidgen_dist.storage.failures import StorageError
from vidgen_dist.storage.folder import Storage, open_storage

REFERENCES = Path(__file__).parents[1] / "references"
MakeSpec = Callable[..., RunSpec]
MakeManifest = Callable[..., str]


def plan_of(spec: RunSpec) -> Plan:
    return make_plan(*open_run(spec), device="cpu", engine=FAKE_ENGINE)


def record(plan: Plan) -> None:
    write_run_file(plan.output, plan.recorded)


def rows_of(plan: Plan) -> list[PendingRow]:
    return list(plan.rows())


def enter(
    plan: Plan,
    rows: list[PendingRow],
    status: str = "done",
    media: dict[str, str] | None = None,
    error: str = "Error",
) -> None:
    """Ledger entries for rows, as if they had been rendered."""
    if not plan.output.exists("run.yaml"):
        record(plan)
    with LedgerWriter(plan.output, "test") as writer:
        for row in rows:
            writer.append(
                LedgerEntry(
                    id=row.id,
                    status=status,
                    fingerprint=plan.identity.fingerprint(row.request, media or {}),
                    attempt=row.attempt,
                    finished_at=datetime.now(UTC),
                    uri="somewhere" if status == "done" else None,
                    error_class=error if status == "failed" else None,
                )
            )


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


def test_done_rows_are_left_out_and_failed_ones_tried_again(
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


def test_retry_chooses_what_has_failed_and_is_not_done(
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
    # It is for one run: the next goes on with all.
    record(again)
    assert load_spec(again.output.uri("run.yaml")).manifest.retry is None
    # What decides the pixels has changed: they are tried with that, for the first time.
    changed = plan_of(spec.override({"manifest.retry": "failed", "seed": 4}))
    assert [(row.id, row.attempt) for row in rows_of(changed)] == [("a", 1), ("c", 1)]
    enter(changed, rows_of(changed)[:1])
    still = spec.override({"manifest.retry": "failed"})
    assert [row.id for row in rows_of(plan_of(still))] == ["c"]


def test_retry_where_nothing_was_rendered(make_spec: MakeSpec, make_manifest: MakeManifest) -> None:
    plan = plan_of(make_spec(make_manifest("one"), manifest__retry="failed"))
    assert (plan.total, rows_of(plan)) == (0, [])


@pytest.mark.parametrize("retry", ["done", "failed:", "failed:A B", "Failed"])
def test_another_retry_is_refused(make_spec: MakeSpec, make_manifest: MakeManifest, retry: str) -> None:
    with pytest.raises(Refused, match=r"manifest\.retry.*failed or failed:CLASS"):
        make_spec(make_manifest("one"), manifest__retry=retry)


@pytest.mark.parametrize("processes", [None, 2])
def test_every_kind_of_row_is_found_again(
    make_spec: MakeSpec, make_manifest: MakeManifest, monkeypatch: pytest.MonkeyPatch, processes: int | None
) -> None:
    """With and without id, seed and quotes; alike and not; in this process and in others."""

    def number(row: PendingRow) -> int:
        return int(row.request.prompt.split()[0])

    if processes:
        monkeypatch.setattr(resume, "PROCESSES_MIN_ROWS", 1)
        monkeypatch.setattr(resume, "_cores", lambda: processes)
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
    again = plan_of(spec)
    assert again.records.is_done.tolist() == [n % 2 == 0 for n in range(40)]
    assert again.records.attempts.tolist() == [int(n % 4 != 3) for n in range(40)]
    assert sorted(rows_of(again), key=number) == [
        dataclasses.replace(row, attempt=1 + int(n % 4 != 3), maybe_stored=True)
        for n, row in enumerate(everything)
        if n % 2
    ]
    floats = [row | {"seed": None if row["seed"] is None else float(row["seed"])} for row in rows]
    assert plan_of(make_spec(make_manifest(*floats), seed=7)).done == 20


@pytest.mark.parametrize(("size", "most"), [(0, 1), (10 * 2**20, 10)])
def test_prompts_that_wait_to_be_hashed_are_bounded(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, most: int
) -> None:
    """With what is submitted and not asked for; a row is a batch, its prompt a megabyte."""
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
    monkeypatch.setattr(resume, "_AHEAD_BYTES", size)
    assert plan_of(spec).done == 12
    assert (waiting, highest) == (0, most)


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


def test_priority_decides_no_pixels(make_spec: MakeSpec, make_manifest: MakeManifest) -> None:
    plan = plan_of(make_spec(make_manifest({"prompt": "x"}, {"prompt": "y"})))
    enter(plan, rows_of(plan))
    first = make_manifest({"prompt": "x", "priority": 1}, {"prompt": "y", "priority": 2})
    assert plan_of(make_spec(first)).done == 2


def test_workers_shards_and_order_undo_nothing_but_pixels_do(
    make_spec: MakeSpec, make_manifest: MakeManifest
) -> None:
    manifest = make_manifest({"id": "a", "prompt": "x"}, {"id": "b", "prompt": "y"})
    plan = plan_of(make_spec(manifest))
    enter(plan, rows_of(plan))
    turned = make_manifest({"prompt": "y", "id": "b"}, {"prompt": "x", "id": "a"}, name="turned.parquet")
    assert plan_of(make_spec(turned, topology__replicas=7, topology__shard_size=1)).done == 2
    # npy knows no quality.
    assert plan_of(make_spec(manifest, output__crf=30)).done == 2
    for change in (
        {"sampling__num_frames": 5},
        {"seed": 1},
        {"output__fps": 9.0},
        {"model__revision": "other"},
    ):
        assert plan_of(make_spec(manifest, **change)).done == 0


def test_a_run_keeps_its_commit_when_the_branch_moves(
    make_spec: MakeSpec, make_manifest: MakeManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(make_manifest("one"), model__id="hub/fake")
    plan = plan_of(spec)
    enter(plan, rows_of(plan))
    assert load_spec(plan.output.uri("run.yaml")).model.revision == "1111"
    monkeypatch.setattr(fake_engine, "MAIN", "2222")
    assert plan_of(spec).done == 1
    assert plan_of(spec.override({"model.revision": "2222"})).done == 0


def test_an_image_counts_by_content(make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path) -> None:
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


def test_run_file_comes_back_and_goes_on_from_anywhere(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = make_manifest("one")
    monkeypatch.chdir(tmp_path)
    plan = plan_of(make_spec(Path(manifest).name, output__uri="out", sampling__num_frames=4))
    record(plan)
    enter(plan, rows_of(plan))
    away = tmp_path / "away"
    away.mkdir()
    monkeypatch.chdir(away)
    again = load_spec(str(tmp_path / "out" / "run.yaml"))
    assert again.output.uri == str(tmp_path / "out")
    assert again.model.task == "text-to-video"
    assert plan_of(again).done == 1


def test_secrets_of_uris_are_not_written_down_and_asked_for_again(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path
) -> None:
    plan = plan_of(make_spec(make_manifest("one")))
    signed = "https://host/manifest.parquet?page=1&X-Amz-Signature=abcdef"
    image = "https://user:abcdef@host/fox.png?X-Amz-Signature=abcdef"
    for uris, lacking in (
        ({"manifest.uri": signed}, "manifest.uri: https://host/manifest.parquet"),
        ({"sampling.image": image}, "sampling.image: https://host/fox.png"),
    ):
        record(dataclasses.replace(plan, spec=plan.spec.override(uris)))
        assert "abcdef" not in (tmp_path / "out" / "run.yaml").read_text()
        again = load_spec(str(tmp_path / "out" / "run.yaml"))
        with pytest.raises(Refused, match=re.escape(lacking) + ".* give the whole URI again"):
            plan_of(again)
        # The run goes on with the URI as it was given.
        whole = {"manifest.uri": plan.spec.manifest.uri, "sampling.image": None}
        assert plan_of(again.override(whole)).total == 1


@pytest.mark.parametrize(
    "uri",
    [
        "abfs://container@account.dfs.core.windows.net/data/*.parquet",
        "s3://bucket/what?/part-?.parquet",
        "s3://bucket/a#b@c.parquet",
        "sftp://me@host/data",
        "https://host/m.parquet?version=3",
    ],
)
def test_uris_are_written_down_as_they_were_given(
    uri: str, make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path
) -> None:
    plan = plan_of(make_spec(make_manifest("one")))
    record(dataclasses.replace(plan, spec=plan.spec.override({"manifest.uri": uri})))
    assert load_spec(str(tmp_path / "out" / "run.yaml")).manifest.uri == uri


def test_an_output_whose_uri_is_secret_is_refused(make_spec: MakeSpec, make_manifest: MakeManifest) -> None:
    for uri in ("memory://out?X-Amz-Signature=abcdef", "memory://user:abcdef@out/x", "https://host/out"):
        with pytest.raises(Refused, match=r"the URI holds a|https:// can only be read") as caught:
            plan_of(make_spec(make_manifest("one"), output__uri=uri))
        assert "abcdef" not in str(caught.value)


BAD_ROWS: list[tuple[dict[str, Any], list[str]]] = [
    ({"num_frames": -1}, ["row 1", "'b'", "num_frames", "-1"]),
    ({"num_frames": 2.5}, ["row 1", "num_frames", "2.5", "whole number"]),
    ({"height": 12}, ["row 1", "height", "12", "multiple of 8"]),
    ({"seed": -5}, ["row 1", "seed", "-5"]),
    ({"id": "a"}, ["row 1", "id", "the same as that of row 0"]),
    ({"eta": 0.5}, ["row 1", "eta", "does not take it"]),
]


@pytest.mark.parametrize(("bad", "parts"), BAD_ROWS)
def test_a_bad_row_is_named(
    make_spec: MakeSpec, make_manifest: MakeManifest, bad: dict[str, Any], parts: list[str]
) -> None:
    empty = dict.fromkeys(bad)
    manifest = make_manifest(
        {**empty, "id": "a", "prompt": "x"},
        {"id": "b", "prompt": "y", **bad},
        {**empty, "id": "c", "prompt": "z"},
    )
    with pytest.raises(Refused) as refused:
        plan_of(make_spec(manifest))
    for part in [manifest, *parts]:
        assert part in str(refused.value)


def test_the_task_needs_its_image(make_spec: MakeSpec, make_manifest: MakeManifest) -> None:
    with pytest.raises(Refused, match=r"row 0.*image"):
        plan_of(make_spec(make_manifest("one"), model__task="image-to-video"))


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


def test_passthrough_may_not_hide_the_ledgers_own(make_spec: MakeSpec, make_manifest: MakeManifest) -> None:
    manifest = make_manifest({"id": "a", "prompt": "x", "status": "mine"})
    with pytest.raises(Refused, match="'status' cannot be copied"):
        plan_of(make_spec(manifest, manifest__passthrough=["status"]))


def test_what_the_ledger_cannot_hold_is_refused_before_a_run(make_spec: MakeSpec, tmp_path: Path) -> None:
    twice = pa.StructArray.from_arrays([pa.array([None, 1]), pa.array(["x", None])], ["a", "a"])
    path = str(tmp_path / "m.parquet")
    pq.write_table(pa.table({"prompt": ["p", "q"], "odd": twice}), path)
    flags = {"manifest.passthrough": ["odd"]}
    for plan in (
        lambda: plan_of(make_spec(path, manifest__passthrough=["odd"])),
        lambda: check_manifest(path, flags),
    ):
        with pytest.raises(Refused, match="passthrough: column 'odd' has type struct<a: int64, a: string>"):
            plan()
    assert plan_of(make_spec(path)).total == 2


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


@pytest.mark.parametrize("content", [b"", b"prompt\na fox\n", b"PAR1 but cut"])
def test_a_manifest_that_is_not_parquet(make_spec: MakeSpec, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.parquet"
    path.write_bytes(content)
    with pytest.raises(Refused, match=r"m\.parquet.*Parquet"):
        plan_of(make_spec(str(path)))


def test_a_manifest_without_prompt(make_spec: MakeSpec, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "m.parquet")
    with pytest.raises(Refused, match="'prompt'"):
        plan_of(make_spec(str(tmp_path / "m.parquet")))


def test_whatever_the_model_a_row_needs_a_prompt_or_an_image(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    texts = {"image": ["x.png", None, None], "prompt": [None, "a fox", None]}
    pq.write_table(pa.table(texts), tmp_path / "m.parquet")
    report = check_manifest(str(tmp_path / "m.parquet"), {})
    assert (report.bad_rows, dict(report.counts)) == (1, {"prompt": 1})
    assert "a text, or a value of image" in report.problems[0].message
    pq.write_table(pa.table({"image": ["x.png"]}), tmp_path / "m.parquet")
    assert check_manifest(str(tmp_path / "m.parquet"), {}).ok
    pq.write_table(pa.table({"promt": ["a fox"]}), tmp_path / "m.parquet")
    with pytest.raises(Refused, match=r"no column 'prompt' or 'image', which .* \(is 'promt' meant to be it"):
        check_manifest(str(tmp_path / "m.parquet"), {})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Textless(ResolvedRequest):
    """A request for a model that has no text encoder."""

    num_frames: int
    guidance_scale: float


@pytest.fixture
def without_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake model takes no prompt."""

    def open_model(model: ModelOptions, device: str, ring: int = 1) -> OpenedModel:
        opened = fake_open_model(model, device, ring)
        of_task = dataclasses.replace(opened.rules.of_task, request=Textless)
        return dataclasses.replace(opened, rules=dataclasses.replace(opened.rules, of_task=of_task))

    fake_open_model = fake_engine.open_model
    monkeypatch.setattr(fake_engine, "open_model", open_model)


@pytest.mark.usefixtures("without_text")
def test_a_model_that_takes_no_prompt(
    make_spec: MakeSpec, make_manifest: MakeManifest, caplog: pytest.LogCaptureFixture
) -> None:
    ids = list("abcd")
    bare = make_manifest(*({"id": row_id, "seed": None if row_id < "c" else 3} for row_id in ids))
    spec = make_spec(bare)
    plan = plan_of(spec)
    rows = rows_of(plan)
    assert not any("prompt" in row.request.values() for row in rows)
    assert not caplog.records
    enter(plan, rows[::2])
    assert plan_of(spec).records.is_done.tolist() == [True, False, True, False]

    told = make_manifest(*({"id": i, "prompt": f"a {i}", "seed": None if i < "c" else 3} for i in ids))
    again = plan_of(make_spec(told))
    # It does not count.
    assert again.records.is_done.tolist() == [True, False, True, False]
    assert [row.request for row in rows_of(again)] == [row.request for row in rows[1::2]]
    (warning,) = caplog.records
    assert "column 'prompt' is ignored: Fake text-to-video does not take it" in warning.getMessage()


@pytest.mark.usefixtures("without_text")
def test_another_field_that_a_model_does_not_take_is_refused(
    make_spec: MakeSpec, make_manifest: MakeManifest
) -> None:
    manifest = make_manifest({"id": "a", "negative_prompt": "x"})
    with pytest.raises(Refused, match="negative_prompt: 'x' is not allowed; Fake text-to-video does not"):
        plan_of(make_spec(manifest))


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"model__id": "other"}, "model.id"),
        ({"output__format": "gif"}, "output.format"),
        ({"model__task": "image-to-video"}, "model.task"),
    ],
)
def test_an_output_of_another_run(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path, change: dict[str, str], key: str
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    plan = plan_of(make_spec(make_manifest("one")))
    enter(plan, rows_of(plan))
    row = {"id": "a", "prompt": "one"} | ({"image": "x.png"} if key == "model.task" else {})
    with pytest.raises(Refused, match=f"output of another run: {key}"):
        plan_of(make_spec(make_manifest(row), **change))


def test_a_folder_is_its_content_wherever_it_lies(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plan(folder: str) -> Plan:
        return make_plan(*open_run(make_spec(manifest, model__id=folder)), device="cpu", engine=ENGINE)

    manifest = make_manifest("one")
    model = tmp_path / "models" / "tiny"
    shutil.copytree(REFERENCES / "cogvideox" / "5b" / "checkpoint", model)
    first = plan(str(model))
    enter(first, rows_of(first))
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "away")
    there = plan("../models/tiny")
    assert (there.spec.model.id, there.done) == (str(model), 1)
    moved = model.rename(tmp_path / "moved")
    elsewhere = plan(str(moved))
    assert (elsewhere.spec.model.id, elsewhere.done) == (str(moved), 1)
    assert plan_of_run_file(elsewhere).done == 1
    other = shutil.copytree(moved, tmp_path / "other")
    config = other / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text() + " ")
    with pytest.raises(Refused, match=r"output of another run: model\.id is '.*/moved'.* here '.*/other'"):
        plan(str(other))
    # In its own place it is the same run with other pixels.
    shutil.rmtree(moved)
    other.rename(moved)
    assert plan(str(moved)).done == 0


def plan_of_run_file(plan: Plan) -> Plan:
    """The plan of whoever goes on from the output's own run.yaml."""
    record(plan)
    return make_plan(*open_run(load_spec(plan.output.uri("run.yaml"))), device="cpu", engine=ENGINE)


def test_local_paths_are_written_down_plainly(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "away")
    image = "file://../away/../fox.png"
    plan = plan_of(
        make_spec(
            f"../{Path(make_manifest('one')).name}", sampling__image=image, model__task="image-to-video"
        )
    )
    assert plan.spec.manifest.uri == str(tmp_path / "manifest.parquet")
    assert plan.spec.sampling["image"] == str(tmp_path / "fox.png")


def test_an_output_where_nothing_was_rendered_is_free(
    make_spec: MakeSpec, make_manifest: MakeManifest
) -> None:
    record(plan_of(make_spec(make_manifest("one"), model__id="mistyped")))
    assert plan_of(make_spec(make_manifest("one"), output__format="gif")).done == 0


def test_an_output_in_memory_is_refused(make_spec: MakeSpec, make_manifest: MakeManifest) -> None:
    with pytest.raises(Refused, match="each process has a memory of its own"):
        plan_of(make_spec(make_manifest("one"), output__uri="memory://out"))


def test_an_output_of_another_manifest(make_spec: MakeSpec, make_manifest: MakeManifest) -> None:
    plan = plan_of(make_spec(make_manifest("one", "two")))
    enter(plan, rows_of(plan))
    stranger = make_manifest({"id": "x", "prompt": "three"}, name="other.parquet")
    with pytest.raises(Refused, match=r"its manifest is .*manifest\.parquet"):
        plan_of(make_spec(stranger))
    relative = make_manifest("one", {"id": "x", "prompt": "three"}, name="more.parquet")
    assert plan_of(make_spec(relative)).done == 1


def test_an_output_in_the_manifest(make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path) -> None:
    """The next run would read the ledger as manifest."""
    make_manifest("one")
    for uri in (str(tmp_path), f"{tmp_path}/**/*.parquet"):
        with pytest.raises(Refused, match=r"/out: lies in the manifest .*; give a folder outside of it"):
            plan_of(make_spec(uri))
    assert plan_of(make_spec(f"{tmp_path}/*.parquet")).total == 1
    assert plan_of(make_spec(str(tmp_path), output__uri=str(tmp_path / "_out"))).total == 1


@pytest.mark.parametrize("folder", ["videos", "ledger"])
def test_a_folder_that_is_no_output(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path, folder: str
) -> None:
    (tmp_path / "out" / folder).mkdir(parents=True)
    (tmp_path / "out" / folder / "holiday.mp4").write_bytes(b"mine")
    with pytest.raises(Refused, match=f"has {folder}/ but no run.yaml"):
        plan_of(make_spec(make_manifest("one")))


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
