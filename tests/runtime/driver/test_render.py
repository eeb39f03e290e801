"""Whole runs on a local Ray with two workers and the fast fake engine."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console

from tests.fake_engine import FAKE_ENGINE
from tests.outputs import entries
from tests.policies import AT_ONCE
from vidgen_dist.errors import Refused
from vidgen_dist.ledger import MAX_MESSAGE
from vidgen_dist.maintenance.status import read_failures, read_status
from vidgen_dist.output.lease import acquire
from vidgen_dist.output.ledger_committer import CommitPolicy
from vidgen_dist.preflight.plan import make_plan, open_run
from vidgen_dist.runtime.connection import in_one_line
from vidgen_dist.runtime.driver.policies import RunPolicies
from vidgen_dist.runtime.driver.render import RunResult, render
from vidgen_dist.runtime.scheduling.policy import SupervisorPolicy
from vidgen_dist.spec import RunSpec
from vidgen_dist.storage.folder import open_storage

MakeSpec = Callable[..., RunSpec]
MakeManifest = Callable[..., str]


def run(spec: RunSpec, policies: RunPolicies = RunPolicies()) -> RunResult:
    return render(spec, Console(file=io.StringIO()), engine=FAKE_ENGINE, policies=policies)


def counts(result: RunResult) -> tuple[int, int, int, int]:
    return result.done_before, result.done, result.failed, result.exit_status


@pytest.mark.usefixtures("local_ray")
def test_a_run_and_the_next_run_on_its_output(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path
) -> None:
    spec = make_spec(make_manifest("one", "two", "raise:oops", "four", "five"), topology__replicas=1)
    result = run(spec)
    assert counts(result) == (0, 4, 1, 1)
    assert result.pending == 0
    assert result.failures[0].startswith("c: RuntimeError: oops")
    assert sorted(entry["id"] for entry in entries(tmp_path / "out")) == list("abcde")
    assert {
        k: v for k, v in read_status(str(tmp_path / "out")).items() if k in ("total", "done", "failed")
    } == {
        "total": 5,
        "done": 4,
        "failed": 1,
    }
    again = run(spec)
    assert counts(again) == (4, 0, 1, 1)
    assert entries(tmp_path / "out")[-1]["attempt"] == 2


@pytest.mark.usefixtures("local_ray")
def test_options_that_do_not_decide_pixels_render_nothing_again(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path
) -> None:
    two = make_manifest("noise", "black:")
    assert counts(run(make_spec(two, topology__replicas=1))) == (0, 2, 0, 0)
    strict = {"output__reject": ["black"], "output__aigc_producer": "ACME"}
    three = make_manifest("noise", "black:", "black: again")
    assert counts(run(make_spec(three, **strict))) == (2, 0, 1, 1)
    assert entries(tmp_path / "out")[-1]["error_class"] == "VideoRejected"
    # No longer rejected.
    assert counts(run(make_spec(three))) == (2, 1, 0, 0)


@pytest.mark.usefixtures("local_ray")
def test_frames_do_not_depend_on_the_number_of_workers(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path
) -> None:
    """One worker, or two that both render: each of two rows waits until the other has begun."""
    a, b = tmp_path / "a", tmp_path / "b"
    prompts = (f"touch:{a} wait:{b}", f"touch:{b} wait:{a}", *(f"row {i}" for i in range(4)))
    manifest = make_manifest(*prompts)
    b.touch()
    run(make_spec(manifest, output__uri=str(tmp_path / "one"), topology__replicas=1))
    for file in (a, b):
        file.unlink()
    run(make_spec(manifest, output__uri=str(tmp_path / "two"), topology__shard_size=1))
    assert [len({entry["worker"] for entry in entries(tmp_path / name)}) for name in ("one", "two")] == [1, 2]
    first = {entry["id"]: entry for entry in entries(tmp_path / "one")}
    second = {entry["id"]: entry for entry in entries(tmp_path / "two")}
    assert first.keys() == second.keys() == set("abcdef")
    for row_id, entry in first.items():
        assert entry["sha256"] == second[row_id]["sha256"]
        assert entry["fingerprint"] == second[row_id]["fingerprint"]
        assert np.array_equal(np.load(entry["uri"]), np.load(second[row_id]["uri"]))


@pytest.mark.usefixtures("local_ray")
def test_a_row_that_kills_workers_is_given_up_and_its_neighbours_are_not(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path
) -> None:
    """The row has as many attempts as the run allows."""
    once = tmp_path / "once"
    rows = ["one", "two", "die:", "four", f"die-once:{once}", "six", "seven", "eight"]
    spec = make_spec(
        make_manifest(*rows), faults__max_attempts=2, topology__replicas=1, topology__shard_size=4
    )
    result = run(spec)
    assert counts(result) == (0, 7, 1, 1)
    found = {entry["id"]: entry for entry in entries(tmp_path / "out")}
    assert found["c"]["error_class"] == "WorkerDied"
    assert found["c"]["error_message"].startswith("2 workers died with this row")
    assert all(entry["status"] == "done" for row_id, entry in found.items() if row_id != "c")
    assert len(entries(tmp_path / "out")) == 8


@pytest.mark.usefixtures("local_ray")
def test_too_many_failures_end_the_run_and_lose_nothing(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path
) -> None:
    rows = ["raise:oops", "two", "raise:oops", "four", "raise:oops", *["later"] * 7]
    spec = make_spec(
        make_manifest(*rows), faults__max_failures="20%", topology__replicas=1, topology__shard_size=1
    )
    result = run(spec)
    assert result.exit_status == 1
    assert result.failed == 3
    # A few rows may have begun before the third failure was reported.
    assert 2 <= result.done < 9
    assert result.pending == 9 - result.done
    assert "rows failed, faults.max_failures is" in result.message
    found = entries(tmp_path / "out")
    assert [entry["status"] for entry in found].count("done") == result.done
    again = run(make_spec(make_manifest(*rows), topology__replicas=1))
    assert counts(again) == (result.done, 9 - result.done, 3, 1)


@pytest.mark.usefixtures("local_ray")
def test_rows_of_a_worker_that_breaks_down_are_rendered(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path
) -> None:
    manifest = make_manifest("one", f"exit-once:{tmp_path}/left", "three", "four", "five")
    assert counts(run(make_spec(manifest, topology__replicas=1))) == (0, 5, 0, 0)


@pytest.mark.usefixtures("local_ray")
def test_a_model_that_never_loads_ends_the_run(make_spec: MakeSpec, make_manifest: MakeManifest) -> None:
    spec = make_spec(make_manifest("one"), model__id="breaks-when-loaded", topology__replicas=1)
    result = run(spec, RunPolicies(supervisor=SupervisorPolicy(max_deaths=2)))
    assert counts(result) == (0, 0, 0, 1)
    assert result.pending == 1
    assert "no worker can be kept alive" in result.message


def test_the_message_about_a_death_has_its_cause() -> None:
    account = (
        "The actor died: \x1b[36mray::WorkerActor\x1b[39m\n"
        + "  File x, line 1\n" * 100
        + "No module named 'y'\n"
    )
    line = in_one_line(RuntimeError(account))
    assert line.startswith("RuntimeError: The actor died: ray::WorkerActor File x")
    assert line.endswith("No module named 'y'")
    assert len(line) < 600


@pytest.mark.usefixtures("local_ray")
def test_a_model_that_a_worker_refuses_is_refused(make_spec: MakeSpec, make_manifest: MakeManifest) -> None:
    with pytest.raises(Refused, match=r"transformer\.weight: missing"):
        run(make_spec(make_manifest("one"), model__id="refused-by-workers"))


@pytest.mark.usefixtures("local_ray")
def test_a_ledger_that_is_lost_half_way_stops_the_run_and_loses_nothing(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path
) -> None:
    ledger = tmp_path / "out" / "ledger"
    # The first row is entered; the second one puts a file in place of the ledger.
    prompts = ["one", f"replace:{ledger}", *(f"row {i} sleep:0.2" for i in range(200))]
    spec = make_spec(make_manifest(*({"id": f"{i:03d}", "prompt": p} for i, p in enumerate(prompts))))
    policies = RunPolicies(commit=CommitPolicy(patience_seconds=0.0, part_seconds=0.5), retries=AT_ONCE)
    result = run(spec.override({"topology.replicas": 1, "topology.shard_size": 1}), policies)
    assert result.exit_status == 1
    assert "the output cannot be written" in result.message
    assert result.pending > 0
    ledger.unlink()
    os.rename(f"{ledger}.away", ledger)
    kept = [entry["id"] for entry in entries(tmp_path / "out")]
    assert kept[0] == "000"
    assert len(kept) == result.done


@pytest.mark.usefixtures("local_ray")
def test_an_output_that_becomes_unwritable_ends_the_run_without_dead_letters(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path
) -> None:
    videos = tmp_path / "out" / "videos"
    manifest = make_manifest("one", f"spoil:{videos}", *(["later sleep:0.1"] * 20))
    spec = make_spec(manifest, topology__replicas=1, topology__shard_size=1)
    result = run(spec, RunPolicies(retries=AT_ONCE))
    assert result.message.startswith("the run stopped: the output cannot be written: cannot write ")
    assert counts(result) == (0, 1, 0, 1)
    assert result.pending == 21
    assert [(entry["id"], entry["status"]) for entry in entries(tmp_path / "out")] == [("a", "done")]
    videos.unlink()
    os.rename(f"{videos}.away", videos)
    assert counts(run(make_spec(make_manifest("one", "two")))) == (1, 1, 0, 0)


@pytest.mark.usefixtures("local_ray")
def test_a_run_on_s3(make_spec: MakeSpec, make_manifest: MakeManifest, s3_bucket: str) -> None:
    uri = f"s3://{s3_bucket}/out"
    result = run(make_spec(make_manifest("one", "two"), output__uri=uri, topology__replicas=1))
    assert counts(result) == (0, 2, 0, 0)
    assert read_status(uri)["done"] == 2


@pytest.mark.usefixtures("local_ray")
def test_a_manifest_that_changes_ends_the_run_and_the_next_run_reads_it_anew(
    make_spec: MakeSpec, tmp_path: Path
) -> None:
    manifest, begun, changed = (tmp_path / name for name in ("m.parquet", "begun", "changed"))
    prompts = ["one", f"touch:{begun} wait:{changed}", *(f"row {n}" for n in range(20))]

    def write(prompts: list[str]) -> None:
        table = pa.table({"id": [f"{n:02d}" for n in range(len(prompts))], "prompt": prompts})
        pq.write_table(table, tmp_path / "new", row_group_size=1)
        os.replace(tmp_path / "new", manifest)

    def change() -> None:
        until = time.monotonic() + 60
        while not begun.exists() and time.monotonic() < until:
            time.sleep(0.02)
        write([*prompts, "one more"])
        changed.touch()

    write(prompts)
    spec = make_spec(str(manifest), topology__replicas=1, topology__shard_size=1)
    person = threading.Thread(target=change)
    person.start()
    result = run(spec)
    person.join()
    assert result.exit_status == 1
    assert "m.parquet: the manifest was changed while in use" in result.message
    assert 2 <= result.done < 20
    assert result.failed == 0
    assert sorted(entry["id"] for entry in entries(tmp_path / "out"))[:2] == ["00", "01"]
    assert counts(run(spec)) == (result.done, 23 - result.done, 0, 0)
    assert len(entries(tmp_path / "out")) == 23


@pytest.mark.usefixtures("local_ray")
def test_prompts_of_100_kilobytes_are_rendered(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path
) -> None:
    long = "é" * 50_000
    manifest = make_manifest(long, f"raise:{long}", f"{long} {long}", f"nan:{long}")
    spec = make_spec(manifest, output__format="mp4", manifest__passthrough=["prompt"], topology__replicas=1)
    assert counts(run(spec)) == (0, 2, 2, 1)
    found = {entry["id"]: entry for entry in entries(tmp_path / "out")}
    assert found["c"]["prompt"] == f"{long} {long}"
    assert found["b"]["error_message"] == "é" * (MAX_MESSAGE - 3) + "..."
    assert make_plan(*open_run(spec), device="cpu", engine=FAKE_ENGINE).done == 2


@pytest.mark.usefixtures("local_ray")
def test_the_highest_priority_is_rendered_first(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path
) -> None:
    rows = [{"id": str(n), "prompt": "x", "priority": n, "height": 16 + 8 * (n % 2)} for n in range(6)]
    assert counts(run(make_spec(make_manifest(*rows), topology__replicas=1))) == (0, 6, 0, 0)
    assert [entry["id"] for entry in entries(tmp_path / "out")] == list("543210")


@pytest.mark.usefixtures("local_ray")
def test_status_counts_as_the_latest_run_did(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path
) -> None:
    """The output has rows that were done with other settings, and the manifest changes."""

    def status() -> list[Any]:
        found = read_status(str(tmp_path / "out"))
        return [found[name] for name in ("counted", "total", "done", "failed", "pending")]

    first = {"id": "a", "prompt": "raise:oops", "priority": 1}
    others = [{"id": letter, "prompt": letter, "priority": 0} for letter in "bcdefghijklm"]
    spec = make_spec(make_manifest(first, *others), topology__replicas=1)
    assert counts(run(spec)) == (0, 12, 1, 1)
    assert status() == ["run", 13, 12, 1, 0]
    # It stops at the first row that fails.
    changed = run(spec.override({"sampling.num_inference_steps": 20, "faults.max_failures": 0}))
    assert changed.pending
    assert status() == ["run", 13, changed.done, 1, changed.pending]
    # The videos that it made have replaced the others.
    back = run(spec.override({"manifest.retry": "failed"}))
    assert back.failed == 1
    assert status() == ["ids", 13, 12, 1, 0]
    make_manifest(*others[:3], {"id": "new", "prompt": "x", "priority": 0})
    assert status() == ["ids", 4, 3, 0, 1]
    make_manifest(*others[9:])
    assert run(spec).message == "nothing to render: all 3 rows are done"
    assert status() == ["run", 3, 3, 0, 0]


def test_a_manifest_without_rows_leaves_nothing_to_render(make_spec: MakeSpec, tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), tmp_path / "m.parquet")
    spec = make_spec(str(tmp_path / "m.parquet"))
    for _ in range(2):
        result = run(spec)
        assert counts(result) == (0, 0, 0, 0)
        assert result.message == "nothing to render: the manifest has no rows"
        status = read_status(str(tmp_path / "out"))
        assert [status[name] for name in ("total", "done", "failed", "pending")] == [0, 0, 0, 0]


@pytest.mark.usefixtures("local_ray")
def test_retry_renders_failed_rows_whose_image_was_corrected(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path
) -> None:
    """One image does not decode, two are missing, and one of these still is."""
    names = ("good", "torn", "late", "never")
    rows = [{"id": name, "prompt": name, "image": f"{name}.png"} for name in names]
    Image.new("RGB", (8, 8), "red").save(tmp_path / "good.png")
    (tmp_path / "torn.png").write_bytes(b"no image")
    spec = make_spec(make_manifest(*rows), model__task="image-to-video", topology__replicas=1)

    def tried(found: RunResult) -> list[tuple[str, str, int]]:
        latest = entries(tmp_path / "out")[-(found.done + found.failed) :]
        return sorted((entry["id"], entry["status"], entry["attempt"]) for entry in latest)

    first = run(spec)
    assert counts(first) == (0, 1, 3, 1)
    assert tried(first) == [("good", "done", 1), *((name, "failed", 1) for name in ("late", "never", "torn"))]
    classes = {entry["id"]: entry["error_class"] for entry in entries(tmp_path / "out")}
    assert (classes["torn"], classes["late"]) == ("MediaError", "FileNotFoundError")

    for name in ("torn", "late"):
        Image.new("RGB", (8, 8), "blue").save(tmp_path / f"{name}.png")
    retried = run(spec.override({"manifest.retry": "failed:MediaError"}))
    assert counts(retried) == (1, 1, 0, 0)
    assert tried(retried) == [("torn", "done", 1)]
    rest = run(spec.override({"manifest.retry": "failed"}))
    assert counts(rest) == (2, 1, 1, 1)
    assert tried(rest) == [("late", "done", 1), ("never", "failed", 2)]
    assert read_failures(str(tmp_path / "out"))["id"].to_pylist() == ["never"]

    none = run(spec.override({"manifest.retry": "failed:MediaError"}))
    told = "nothing to render: no row has failed with MediaError; rows have failed with FileNotFoundError"
    assert (none.exit_status, none.message) == (0, told)
    Image.new("RGB", (8, 8)).save(tmp_path / "never.png")
    assert counts(run(spec.override({"manifest.retry": "failed"}))) == (3, 1, 0, 0)
    none = run(spec.override({"manifest.retry": "failed"}))
    assert (none.exit_status, none.message) == (0, "nothing to render: no row has failed")


@pytest.fixture
def no_more_ray(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, no run connects to Ray."""

    def never(*_: Any) -> None:
        raise AssertionError("Ray was wanted")

    return lambda: monkeypatch.setattr("vidgen_dist.runtime.driver.render.connected", never)


@pytest.mark.usefixtures("local_ray")
def test_ray_is_not_started_if_there_is_nothing_to_do(
    make_spec: MakeSpec, make_manifest: MakeManifest, no_more_ray: Callable[[], None]
) -> None:
    spec = make_spec(make_manifest("one"))
    run(spec)
    no_more_ray()
    result = run(spec)
    assert counts(result) == (1, 0, 0, 0)
    assert "nothing to render" in result.message


def test_ray_is_not_started_where_another_run_is_at_work(
    make_spec: MakeSpec, make_manifest: MakeManifest, no_more_ray: Callable[[], None]
) -> None:
    spec = make_spec(make_manifest("one"))
    no_more_ray()
    output = open_storage(spec.output.uri)
    with (
        acquire(output, "other", print_line=print),
        pytest.raises(Refused, match=r"run other .* is rendering into it"),
    ):
        run(spec)
    assert not output.exists("run.yaml")


def test_a_run_that_is_refused_while_ray_starts_leaves_no_trace(
    make_spec: MakeSpec, make_manifest: MakeManifest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: Any) -> None:
        raise Refused("no local Ray can be started")

    monkeypatch.setattr("vidgen_dist.runtime.driver.render.connected", refuse)
    with pytest.raises(Refused, match="no local Ray"):
        run(make_spec(make_manifest("one")))
    assert not (tmp_path / "out").exists()
