"""Bad rows as dead letters: entered before anything is rendered, and only once while they stay the same."""

from __future__ import annotations

import io
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from tests.commands import fake_vidgen
from tests.fake_engine import FAKE_ENGINE
from tests.outputs import entries
from tests.policies import AT_ONCE
from vidgen_dist.errors import Refused
from vidgen_dist.ledger import LedgerEntry, part_names
from vidgen_dist.maintenance.export import export
from vidgen_dist.maintenance.status import read_failures, read_status
from vidgen_dist.output.lease import LeasePolicy, acquire
from vidgen_dist.output.ledger_committer import MANY_ENTRIES, CommitPolicy
from vidgen_dist.output.run_file import load_spec, write_run_file
from vidgen_dist.preflight.plan import Plan, make_plan, open_run
from vidgen_dist.runtime.driver import bad_rows
from vidgen_dist.runtime.driver import render as driver
from vidgen_dist.runtime.driver.bad_rows import enter_bad_rows
from vidgen_dist.runtime.driver.policies import RunPolicies
from vidgen_dist.runtime.driver.render import RunResult, render
from vidgen_dist.runtime.interrupts import Interrupts
from vidgen_dist.spec import RunSpec
from vidgen_dist.storage.folder import open_storage

MakeSpec = Callable[..., RunSpec]
MakeManifest = Callable[..., str]

GOOD: dict[str, Any] = {
    "id": "good",
    "prompt": "a fox",
    "height": 16,
    "num_frames": 2,
    "seed": 1,
    "source": "s",
}
WHOLE = "a whole number from 1 to 2147483647"


def run(spec: RunSpec, output: io.StringIO | None = None, policies: RunPolicies = RunPolicies()) -> RunResult:
    console = Console(file=output or io.StringIO(), width=200)
    return render(spec, console, engine=FAKE_ENGINE, policies=policies)


def plan_of(spec: RunSpec) -> Plan:
    return make_plan(*open_run(spec), device="cpu", engine=FAKE_ENGINE)


def counts(result: RunResult) -> tuple[int, int, int, int, int]:
    return result.done_before, result.done, result.failed, result.pending, result.exit_status


def status_of(spec: RunSpec) -> list[Any]:
    found = read_status(spec.output.uri)
    return [found[name] for name in ("counted", "total", "done", "failed", "pending", "failures")]


def row(row_id: str | None, **values: Any) -> dict[str, Any]:
    return GOOD | {"id": row_id} | values


@pytest.mark.usefixtures("local_ray")
def test_bad_rows_are_dead_letters_and_the_others_are_rendered(
    make_spec: MakeSpec, make_manifest: MakeManifest
) -> None:
    rows = [
        row("tall", height=31),
        row("a"),
        row("none", num_frames=-1, seed=None),
        row("empty", prompt=None, source=None),
        row("b", priority=2),
        row("seed", seed=-5, height=31),
    ]
    manifest = make_manifest(*({"priority": 1} | each for each in rows))
    flags: dict[str, Any] = {"manifest__passthrough": ["source"], "topology__replicas": 1}
    spec = make_spec(manifest, faults__bad_rows="fail", **flags)
    output = io.StringIO()
    result = run(spec, output)
    assert counts(result) == (0, 2, 4, 0, 1)
    assert result.failures[:2] == (
        "tall: BadRow: height: 31 is not allowed; a multiple of 8 for this model, such as 32",
        f"none: BadRow: num_frames: -1 is not allowed; {WHOLE}",
    )
    # The rows that are rendered have the same order and fingerprints as in a manifest without the others.
    found = entries(spec.output.uri)
    assert [entry["id"] for entry in found] == ["tall", "none", "empty", "seed", "b", "a"]
    alone = make_spec(make_manifest(row("a"), name="alone.parquet"), **flags)
    (without,) = plan_of(alone.override({"output.uri": f"{alone.output.uri}2"})).rows()
    expected = plan_of(spec).identity.fingerprint(without.request, {})
    assert [entry["fingerprint"] for entry in found if entry["id"] == "a"] == [expected]
    for entry, message, source in zip(
        found,
        (
            "height: 31 is not allowed; a multiple of 8 for this model, such as 32",
            f"num_frames: -1 is not allowed; {WHOLE}",
            "prompt: None is not allowed; a text",
            "seed: -5 is not allowed; a whole number from 0 to 9223372036854775807",
        ),
        ("s", "s", None, "s"),
        strict=False,
    ):
        assert (entry["status"], entry["error_class"], entry["attempt"]) == ("failed", "BadRow", 1)
        assert (entry["error_message"], entry["source"]) == (message, source)
    lines = output.getvalue().splitlines()
    assert lines[0] == "4 of 6 rows cannot be rendered:"
    assert lines[1:5] == [
        "  height, 1 rows: a multiple of 8 for this model, such as 32; the first: "
        f"{manifest}, row 0 (id 'tall'): 31",
        f"  num_frames, 1 rows: {WHOLE}; the first: {manifest}, row 2 (id 'none'): -1",
        f"  prompt, 1 rows: a text; the first: {manifest}, row 3 (id 'empty'): nothing",
        "  seed, 1 rows: a whole number from 0 to 9223372036854775807; the first: "
        f"{manifest}, row 5 (id 'seed'): -5",
    ]
    assert any(line.startswith("run ") for line in lines[5:])
    assert status_of(spec) == ["run", 6, 2, 4, 0, {"BadRow": 4}]
    assert read_failures(spec.output.uri)["id"].to_pylist() == ["tall", "none", "empty", "seed"]
    assert load_spec(f"{spec.output.uri}/run.yaml").faults.bad_rows == "fail"


@pytest.fixture
def entered(make_spec: MakeSpec, make_manifest: MakeManifest, no_ray: None) -> RunSpec:
    """A run of three bad rows, whose dead letters are in the ledger."""
    assert no_ray is None
    rows = [row("x", height=31), row("y", num_frames=-1), row("z", prompt=None)]
    spec = make_spec(make_manifest(*rows), faults__bad_rows="fail")
    result = run(spec)
    assert counts(result) == (0, 0, 3, 0, 1)
    assert result.message == "nothing to render: 0 rows are done, 3 cannot be rendered"
    assert status_of(spec) == ["run", 3, 0, 3, 0, {"BadRow": 3}]
    return spec


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"topology.replicas": 7, "seed": 3, "sampling.num_inference_steps": 9},
        {"manifest.retry": "failed"},
        {"manifest.retry": "failed:BadRow"},
    ],
)
def test_a_row_that_was_not_corrected_is_not_entered_again(entered: RunSpec, changed: dict[str, Any]) -> None:
    before = entries(entered.output.uri)
    result = run(entered.override(changed))
    assert counts(result) == (0, 0, 3, 0, 1)
    assert [line.partition(":")[0] for line in result.failures] == ["x", "y", "z"]
    assert entries(entered.output.uri) == before


def test_rows_that_a_retry_does_not_choose_do_not_count_as_failed(
    entered: RunSpec, make_manifest: MakeManifest
) -> None:
    make_manifest(row("x", height=31), row("new", height=31))
    for retry, failed, status in (("failed:MediaError", 0, 0), ("failed:BadRow", 1, 1)):
        result = run(entered.override({"manifest.retry": retry}))
        assert (result.failed, result.pending, result.exit_status) == (failed, 0, status)
    assert [entry["id"] for entry in entries(entered.output.uri)] == list("xyz")


def test_a_corrected_row_is_rendered_and_a_row_that_is_bad_in_another_way_entered(
    entered: RunSpec, make_manifest: MakeManifest
) -> None:
    """Even if the manifest has other files and another order; its passthrough columns may change."""
    folder = Path(entered.manifest.uri).parent / "m"
    folder.mkdir()
    make_manifest(row("y", num_frames=-2), row("z", prompt=None, source="t"), name="m/1.parquet")
    make_manifest(row("x", height=32), name="m/2.parquet")
    moved = entered.override({"manifest.uri": str(folder)})
    for retry in (None, "failed", "failed:BadRow"):
        plan = plan_of(moved.override({"manifest.retry": retry}))
        assert [(each.id, each.attempt) for each in plan.rows()] == [("x", 1)]
        assert (plan.bad, plan.pending) == (2, 1)
        left = plan.records.bad & ~plan.records.entered
        assert [p.id for _, bad in plan.bad_rows(left) for p in bad.problems(slice(None))] == ["y"]


def test_a_row_that_is_broken_again_is_entered_again(entered: RunSpec, make_manifest: MakeManifest) -> None:
    make_manifest(row("x", num_frames=-9))
    assert run(entered).failed == 1
    make_manifest(row("x", height=31))
    assert run(entered).failed == 1
    found = [(entry["fingerprint"], entry["attempt"]) for entry in entries(entered.output.uri)]
    assert len(found) == 5
    assert (found[4][0], found[4][1]) == (found[0][0], 2)
    assert read_failures(entered.output.uri)["error_message"].to_pylist()[-1].startswith("height: 31")


@pytest.mark.usefixtures("local_ray")
def test_a_done_row_that_is_broken_fails_and_restored_is_done(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path
) -> None:
    spec = make_spec(make_manifest(row("a"), row("b")), faults__bad_rows="fail", topology__replicas=1)
    spec = spec.override({"output.format": "mp4"})
    assert counts(run(spec)) == (0, 2, 0, 0, 0)
    make_manifest(row("a", height=31), row("b"))
    assert counts(run(spec)) == (1, 0, 1, 0, 1)
    made = export(spec.output.uri, "hf", str(tmp_path / "exported"), engine=FAKE_ENGINE)
    assert (made.videos, made.failed, made.stale, made.pending, made.unsure) == (1, 1, 0, 0, 0)
    make_manifest(row("a"), row("b"))
    assert counts(run(spec)) == (2, 0, 0, 0, 0)


def test_rows_without_ids_are_identified_by_their_values(
    make_spec: MakeSpec, make_manifest: MakeManifest, no_ray: None
) -> None:
    assert no_ray is None
    spec = make_spec(make_manifest(row(None, height=31), row(None, height=33)), faults__bad_rows="fail")
    for _ in range(2):
        assert counts(run(spec)) == (0, 0, 2, 0, 1)
    found = entries(spec.output.uri)
    assert len(found) == 2
    assert all(entry["id"] == entry["fingerprint"] for entry in found)


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize("ids", [["a", "a"], ["a", ""], ["a", b"\xff"]])
def test_bad_ids_are_refused_as_always(make_spec: MakeSpec, tmp_path: Path, ids: list[Any]) -> None:
    raw = pa.array([each if isinstance(each, bytes) else each.encode() for each in ids])
    text = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    bad = [row(f"bad {n}", height=31) for n in range(50)]
    table = pa.Table.from_pylist([*bad, row("-"), row("-")])
    names = pa.concat_arrays([table["id"].combine_chunks().slice(0, 50), text])
    pq.write_table(table.set_column(0, "id", names), tmp_path / "m.parquet")
    with pytest.raises(Refused) as refused:
        run(make_spec(str(tmp_path / "m.parquet"), faults__bad_rows="fail"))
    lines = str(refused.value).splitlines()
    assert len(lines) == 2
    assert "m.parquet, row 51 (id " in lines[0]
    assert "ids are refused with `--bad-rows fail`, too" in lines[1]
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_ray")
def test_bad_rows_are_refused_by_default(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path
) -> None:
    with pytest.raises(Refused, match=r"height: 31 is not(.|\n)*`--bad-rows fail` makes dead letters"):
        run(make_spec(make_manifest(row("x", height=31), row("a"))))
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize("most", [2, "29%"])
def test_too_many_bad_rows_end_the_run_before_anything_starts(
    make_spec: MakeSpec, make_manifest: MakeManifest, most: Any
) -> None:
    rows = [row(f"bad {n}", height=31) for n in range(3)] + [row(f"good {n}") for n in range(7)]
    spec = make_spec(make_manifest(*rows), faults__bad_rows="fail", faults__max_failures=most)
    for _ in range(2):
        result = run(spec)
        assert counts(result) == (0, 0, 3, 7, 1)
        message = f"the run stopped: 3 of 10 rows cannot be rendered, faults.max_failures is {most}"
        assert result.message == message
        assert [line.partition(":")[0] for line in result.failures] == ["bad 0", "bad 1", "bad 2"]
        assert status_of(spec) == ["run", 10, 0, 3, 7, {"BadRow": 3}]
        assert read_status(spec.output.uri)["run"]["message"] == message
        assert len(entries(spec.output.uri)) == 3
    assert not plan_of(spec.override({"faults.max_failures": 3})).too_many_are_bad
    assert not plan_of(spec.override({"faults.max_failures": "30%"})).too_many_are_bad


@pytest.mark.usefixtures("local_ray")
def test_bad_rows_and_others_that_fail_are_too_many_together(
    make_spec: MakeSpec, make_manifest: MakeManifest
) -> None:
    rows = [row("bad", height=31), row("a", prompt="raise:oops"), *(row(f"late {n}") for n in range(20))]
    spec = make_spec(make_manifest(*rows), faults__bad_rows="fail", faults__max_failures=1)
    result = run(spec.override({"topology.replicas": 1, "topology.shard_size": 1}))
    assert (result.failed, result.exit_status) == (2, 1)
    assert result.pending > 0
    assert "1 of 1 rows failed beside 1 bad ones, faults.max_failures is 1" in result.message
    assert [line.partition(":")[0] for line in result.failures] == ["a", "bad"]


@pytest.mark.usefixtures("no_gang")
def test_a_ledger_that_cannot_be_written_ends_the_run_before_it_starts(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path
) -> None:
    spec = make_spec(make_manifest(row("x", height=31), row("a")), faults__bad_rows="fail")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "ledger").write_bytes(b"")
    result = run(spec, policies=RunPolicies(retries=AT_ONCE))
    assert (result.failed, result.pending, result.exit_status) == (0, 2, 1)
    assert "the output cannot be written: " in result.message


def many(folder: Path, count: int) -> str:
    """A manifest of bad rows, and one good one at its end."""
    columns = {
        "id": [f"row {n}" for n in range(count + 1)],
        "prompt": ["p"] * (count + 1),
        "height": [*[31] * count, 16],
        "priority": np.arange(count + 1),
    }
    pq.write_table(pa.table(columns), folder / "m.parquet", row_group_size=1000)
    return str(folder / "m.parquet")


def test_a_signal_stops_entering_and_the_next_run_continues(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(many(tmp_path, 3000), faults__bad_rows="fail")
    plan, interrupts = plan_of(spec), Interrupts()
    write_run_file(plan.output, plan.recorded)
    entries_of = bad_rows._entries

    def interrupted(*given: Any) -> Iterator[LedgerEntry]:
        for number, entry in enumerate(entries_of(*given)):
            if number == 1000:
                interrupts.stop()
            yield entry

    monkeypatch.setattr(bad_rows, "_entries", interrupted)
    policies = RunPolicies(commit=CommitPolicy(tick_seconds=0.01, max_waiting=MANY_ENTRIES))
    with acquire(plan.output, "run", print_line=print) as lease:
        entered = enter_bad_rows(plan, lease, interrupts, print, policies)
        assert entered.failed == len(entries(spec.output.uri)) == 1001
        again = plan_of(spec)
        assert np.count_nonzero(again.records.entered) == entered.failed
        whole = enter_bad_rows(again, lease, Interrupts(), print, policies)
    assert (whole.failed, whole.fault) == (3000, "")
    found = entries(spec.output.uri)
    assert max(Counter(entry["id"] for entry in found).values()) == 1
    assert len({entry["finished_at"] for entry in found}) == len(found) == 3000


def test_a_killed_driver_loses_no_row_among_many(make_spec: MakeSpec, tmp_path: Path) -> None:
    """Parts have many rows; none is entered twice; then too many failures end the run before Ray starts."""
    count = 20_000
    manifest, output = many(tmp_path, count), tmp_path / "out"
    flags = ["render", manifest, str(output), "--model", "fake", "--device", "cpu", "--format", "npy"]
    flags += ["--bad-rows", "fail", "--max-failures", "9"]
    policies = RunPolicies(
        commit=CommitPolicy(tick_seconds=0.01, max_waiting=1000), lease=LeasePolicy(orphan_seconds=0.1)
    )
    command = [*fake_vidgen(policies), *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as victim:
        until = time.monotonic() + 60
        while not any(output.glob("ledger/*.parquet")) and time.monotonic() < until and victim.poll() is None:
            time.sleep(0.001)
        victim.send_signal(signal.SIGKILL)
    before = plan_of(make_spec(manifest, faults__bad_rows="fail")).records.entered
    assert 0 < np.count_nonzero(before) < count
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 1, ran.stderr
    assert f"({np.count_nonzero(before):,} of them are dead letters already)" in ran.stderr
    found = pq.read_table(output / "ledger", columns=["id", "attempt"])
    assert len(found) == len(set(found["id"].to_pylist())) == count
    assert set(found["attempt"].to_pylist()) == {1}
    assert len(part_names(open_storage(output))) < count / 50


def test_bad_rows_of_every_kind_are_left_out_of_the_order(make_spec: MakeSpec, tmp_path: Path) -> None:
    """The columns that decide the order have values that no shape has."""
    columns = {
        "id": list("abcdefgh"),
        "prompt": [*"abcdefg", None],
        "height": pa.array([16.0, float("nan"), 24.5, 1e300, 24, 16, float("-inf"), 16]),
        "guidance_scale": [1.0, 1.0, 1.0, 1.0, float("nan"), 1.0, 1.0, 1.0],
        "priority": [1, 9, 9, 9, 9, 2, 9, 9],
    }
    pq.write_table(pa.table(columns), tmp_path / "m.parquet", row_group_size=3)
    plan = plan_of(make_spec(str(tmp_path / "m.parquet"), faults__bad_rows="fail"))
    assert [each.id for each in plan.rows()] == ["f", "a"]
    assert np.flatnonzero(plan.records.bad).tolist() == [1, 2, 3, 4, 6, 7]
    assert plan.reasons[0].count == 4


def test_images_are_not_opened_to_find_bad_rows(make_spec: MakeSpec, make_manifest: MakeManifest) -> None:
    rows = [row("a", image="missing.png"), row("b", image=""), row("c", image=None), row("d", image="e.png")]
    spec = make_spec(make_manifest(*rows), faults__bad_rows="fail", model__task="image-to-video")
    plan = plan_of(spec)
    assert [each.id for each in plan.rows()] == ["a", "d"]
    assert np.flatnonzero(plan.records.bad).tolist() == [1, 2]


@pytest.mark.usefixtures("no_gang")
def test_a_manifest_that_changes_while_rows_are_entered_is_refused(
    make_spec: MakeSpec, make_manifest: MakeManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(make_manifest(row("a", height=31), row("b")), faults__bad_rows="fail")

    def change(plan: Plan) -> Iterator[str]:
        make_manifest(row("a", height=31), row("b"), row("c"))
        return iter([str(plan.bad)])

    monkeypatch.setattr(driver, "describe_bad_rows", change)
    with pytest.raises(Refused, match=r"manifest\.parquet: the manifest was changed while in use"):
        run(spec)
