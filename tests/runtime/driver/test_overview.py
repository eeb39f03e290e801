"""The overview of a run while it runs: its status file and Ray's metrics."""

from __future__ import annotations

import io
import re
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from rich.console import Console

from tests.fake_engine import FAKE_ENGINE, resolved
from tests.waiting import PATIENCE, wait_until
from vidgen_dist.errors import Refused
from vidgen_dist.maintenance.status import read_status
from vidgen_dist.observability.progress import RunProgress
from vidgen_dist.observability.stragglers import StragglerPolicy
from vidgen_dist.output.lease import Holder, acquire
from vidgen_dist.output.ledger_entries import latest_entries
from vidgen_dist.output.pending_row import PendingRow
from vidgen_dist.output.status_file import RunStatus, StatusPolicy, read_status_file
from vidgen_dist.output_layout import STATUS_FILE
from vidgen_dist.runtime.driver.overview import Overview
from vidgen_dist.runtime.driver.policies import RunPolicies
from vidgen_dist.runtime.driver.render import RunResult, render
from vidgen_dist.runtime.messages import WorkerMessage
from vidgen_dist.runtime.scheduling.gang import Gang, Member
from vidgen_dist.runtime.scheduling.row_queue import QueuedRow
from vidgen_dist.spec import RunSpec
from vidgen_dist.storage.folder import open_storage

MakeSpec = Callable[..., RunSpec]
MakeManifest = Callable[..., str]


def run(spec: RunSpec, policies: RunPolicies = RunPolicies()) -> RunResult:
    return render(spec, Console(file=io.StringIO()), engine=FAKE_ENGINE, policies=policies)


def status_of(output: Path) -> RunStatus:
    found = read_status_file(open_storage(output))
    assert found is not None
    return found


@pytest.mark.usefixtures("local_ray")
def test_the_status_file_shows_the_progress_of_a_run(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path
) -> None:
    policies = RunPolicies(
        status=StatusPolicy(update_seconds=0.0, local_seconds=0.0),
        stragglers=StragglerPolicy(min_rows=2, grace_seconds=0.0),
    )
    output, go = tmp_path / "out", tmp_path / "go"
    prompts = ["one", "two", "raise:oops", f"wait:{go}", f"wait:{go}"]
    spec = make_spec(make_manifest(*prompts), topology__shard_size=1)

    def at_last() -> RunStatus | None:
        assert not running.done()
        found = read_status_file(open_storage(output))
        slow = found and {slow.row for slow in found.slow_rows} == {"d", "e"}
        # The next row's start may be reported before the failure of this row.
        return found if slow and found.failed and all(gang.step for gang in found.gangs) else None

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, spec, policies)
        try:
            found = wait_until(at_last)
            asked = read_status(str(output))
        finally:
            go.touch()
        result = running.result(PATIENCE)
    assert (found.state, found.total, found.done, found.failed, found.pending) == ("running", 5, 2, 1, 2)
    assert {gang.row for gang in found.gangs} == {"d", "e"}
    assert all(slow.seconds > 2 * slow.usual_seconds > 0 for slow in found.slow_rows)
    assert found.failures == {"RuntimeError": 1}
    assert {(gang.state, gang.stage, gang.step, gang.steps) for gang in found.gangs} == {
        ("rendering", "denoise", 1, 2)
    }
    assert found.gang_states == {"rendering": 2}
    assert {gang.replica for gang in found.gangs} == {0, 1}
    assert all(gang.since is not None and gang.since <= found.updated for gang in found.gangs)
    assert (asked["done"], asked["pending"], asked["run"]["live"]) == (2, 2, True)
    last = status_of(output)
    assert (last.run, last.state, last.done, last.pending, last.gangs) == (found.run, "finished", 4, 0, ())
    assert result.exit_status == 1
    asked = read_status(str(output))
    assert (asked["done"], asked["failed"], asked["run"]["live"]) == (4, 1, False)


@pytest.mark.usefixtures("local_ray")
def test_the_status_file_shows_how_a_run_ended(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path
) -> None:
    with pytest.raises(Refused):
        run(make_spec(make_manifest("x"), model__id="refused-by-workers"))
    last = status_of(tmp_path / "out")
    assert (last.state, last.pending) == ("stopped", 1)
    assert "transformer.weight: missing" in last.message


def test_the_status_file_of_many_gangs_is_bounded(tmp_path: Path) -> None:
    """A thousand gangs with long ids take less than a megabyte."""
    output = open_storage(tmp_path)
    progress = RunProgress(Console(file=io.StringIO()), total=9999, done=0)
    gangs = [Gang(n, f"run-{n:04}", [Member(None, lambda *_: None)], launched=0.0) for n in range(1500)]
    for gang in gangs:
        queued = QueuedRow(PendingRow(resolved(id="x" * 5000, seed=1), attempt=1))
        gang.in_flight.add([queued], 0.0)
        gang.leader.ready = True
    with acquire(output, "mine", print_line=print) as lease, Overview(output, lease, "m", progress) as kept:
        for gang in gangs:
            kept.update_row(gang, WorkerMessage("started", "x" * 5000))
        kept.refresh(gangs)
        wait_until((tmp_path / STATUS_FILE).exists)
        found = status_of(tmp_path)
        kept.end("finished", "")
    assert (len(found.gangs), found.gang_states) == (1000, {"rendering": 1500})
    assert {len(gang.row or "") for gang in found.gangs} == {200}


def test_the_status_of_a_run_that_took_over_is_not_overwritten(tmp_path: Path) -> None:
    output = open_storage(tmp_path)
    progress = RunProgress(Console(file=io.StringIO()), total=8, done=2)
    with acquire(output, "mine", print_line=print) as lease:
        with Overview(output, lease, "m", progress) as kept:
            kept.refresh([])
            kept.end("finished", "")
        assert status_of(tmp_path).run == "mine"
        (tmp_path / STATUS_FILE).unlink()
        lease.lost = Holder("usurper", "then", "later")
        with Overview(output, lease, "m", progress) as kept:
            kept.refresh([])
            kept.end("stopped", "another run took over")
    assert not (tmp_path / STATUS_FILE).exists()


@pytest.mark.usefixtures("local_ray")
def test_metrics_for_prometheus_and_logs_for_rays_dashboard(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path, s3_bucket: str
) -> None:
    import ray

    output = open_storage(f"s3://{s3_bucket}/out")
    model = f"org/{s3_bucket}"
    go = tmp_path / "go"
    prompts = ["one", "two", "raise:oops", f"wait:{go}"]
    spec = make_spec(
        make_manifest(*prompts),
        model__id=model,
        output__uri=output.root,
        topology__replicas=1,
        topology__shard_size=1,
    )
    (node,) = [node for node in ray.nodes() if node["Alive"]]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"

    def scraped() -> dict[tuple[str, ...], float]:
        """(name, our labels) -> value, for this test's model."""
        with urllib.request.urlopen(url, timeout=60) as answer:
            text = answer.read().decode()
        found = {}
        for name, labels, value in re.findall(r"^ray_(vidgen_\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
            of = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            if of["model"] == model and "le" not in of:
                key = (name, *(of[label] for label in ("replica", "stage", "error") if label in of))
                found[key] = float(value)
        return found

    def at_last() -> dict[tuple[str, ...], float] | None:
        found = scraped()
        done = found.get(("vidgen_videos_total", "0")) == 2 and found.get(
            ("vidgen_failures_total", "0", "RuntimeError")
        )
        return found if done and found.get(("vidgen_rows_pending",)) == 1 else None

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, spec)
        try:
            # Each request makes Ray's agent write all of its metrics; it gets new ones every 10 s.
            found = wait_until(at_last, every=0.5)
        finally:
            go.touch()
        running.result(PATIENCE)
    written = [entry for row_id, entry in latest_entries(output).items() if row_id in "ab"]
    assert found["vidgen_failures_total", "0", "RuntimeError"] == 1
    assert found["vidgen_frames_total", "0"] == sum(entry["frames"] for entry in written)
    assert found["vidgen_written_bytes_total", "0"] == sum(entry["bytes"] for entry in written)
    for stage in ("denoise", "write"):
        seconds = sum(entry[f"seconds_{stage}"] for entry in written)
        assert found["vidgen_busy_seconds_total", "0", stage] == pytest.approx(seconds, rel=1e-4)
        assert found["vidgen_stage_seconds_count", "0", stage] == 2
    assert found["vidgen_gangs",] == found["vidgen_gangs_ready",] == 1
    assert found["vidgen_stragglers",] == 0
    assert found["vidgen_seconds_left",] > 0
    # Object stores cannot append: the log is among Ray's logs.
    assert not [name for name in output.list() if name.startswith("logs/")]
    context = ray.get_runtime_context()
    logs = Path(context.get_temp_dir(), context.get_session_name(), "logs")
    assert '"committed"' in (logs / f"vidgen-{written[0]['worker']}.jsonl").read_text()
