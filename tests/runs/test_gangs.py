"""Gangs of several ranks on a local Ray with the fast fake engine: rows, deaths, hangs, places, refusals."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from PIL import Image
from ray.util import placement_group, placement_group_table, remove_placement_group
from rich.console import Console

from tests import references
from tests.conftest import NPUS
from tests.fake_engine import FAKE_ENGINE
from tests.outputs import entries
from tests.runs.signs import signs_in
from tests.waiting import wait_until
from vidgen_dist.errors import Refused
from vidgen_dist.media import to_uint8
from vidgen_dist.observability.progress import ProgressPolicy
from vidgen_dist.preflight.plan import make_plan, open_run
from vidgen_dist.runtime.driver.policies import RunPolicies
from vidgen_dist.runtime.driver.render import RunResult, render
from vidgen_dist.runtime.scheduling.policy import SupervisorPolicy
from vidgen_dist.runtime.scheduling.row_queue import QueuedRow, RowQueue
from vidgen_dist.spec import RunSpec

MakeSpec = Callable[..., RunSpec]
MakeManifest = Callable[..., str]


@pytest.fixture(autouse=True)
def assert_all_free_afterwards(local_ray: None) -> Iterator[None]:
    """After every run all places are free again."""
    assert local_ray is None
    yield
    wait_until(lambda: all_free() and all(group["state"] == "REMOVED" for group in groups()))


def groups() -> list[dict[str, str]]:
    return list(placement_group_table().values())


def all_free() -> bool:
    free, whole = ray.available_resources(), ray.cluster_resources()
    return all(free.get(kind) == whole[kind] for kind in ("CPU", "NPU"))


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def run(
    spec: RunSpec, console: Console | None = None, line_seconds: float = 15.0, **policy: Any
) -> RunResult:
    """Render with the fake engine; `policy` are fields of the supervisor's policy."""
    policies = RunPolicies(
        supervisor=SupervisorPolicy(**policy), progress=ProgressPolicy(line_seconds=line_seconds)
    )
    return render(spec, console or Console(file=io.StringIO()), engine=FAKE_ENGINE, policies=policies)


def folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_a_gang_renders_its_rows_together(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path
) -> None:
    """All ranks render every row, and one writes; a row's own error does not end them; each has its log."""
    Image.new("RGB", (16, 16)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    rows = {
        "a": ("", "good"),
        "b": ("nan:oops", "good"),
        "c": ("", "bad"),
        "d": ("", "missing"),
        "e": ("", "good"),
    }
    signs = {i: folder(tmp_path / i) for i in rows}
    manifest = make_manifest(
        *(
            {"id": i, "prompt": f"sign:{signs[i]} {command}", "image": f"{image}.png"}
            for i, (command, image) in rows.items()
        )
    )
    flags = {"model__task": "image-to-video", "topology__replicas": 1}
    result = run(make_spec(manifest, topology__ring=3, **flags))
    assert (result.done, result.failed, result.exit_status) == (2, 3, 1)
    found = {entry["id"]: entry for entry in entries(tmp_path / "out")}
    assert len(entries(tmp_path / "out")) == 5
    assert {i: entry["error_class"] for i, entry in found.items()} == {
        "a": None,
        "b": "NumericalError",
        "c": "MediaError",
        "d": "FileNotFoundError",
        "e": None,
    }
    (worker,) = {entry["worker"] for entry in found.values()}
    # The same processes rendered all rows that could be begun.
    ranks = {sign.rank: sign for sign in signs_in(signs["a"])}
    assert sorted(ranks) == [0, 1, 2]
    assert len({sign.pid for sign in ranks.values()}) == 3
    for i in "be":
        assert {sign.rank: sign.pid for sign in signs_in(signs[i])} == {
            rank: sign.pid for rank, sign in ranks.items()
        }
    assert not any(any(signs[i].iterdir()) for i in "cd")
    # They divide the cores.
    here = {str(core) for core in os.sched_getaffinity(0)}
    cores = {rank: set(sign.cores.split("+")) for rank, sign in ranks.items()}
    assert set().union(*cores.values()) <= here
    assert not (cores[0] & cores[1]) or len(here) == 1
    # A row whose image is missing is not announced to the followers.
    assert started_by_rank(tmp_path / "out" / "logs", worker) == {0: [*"abcde"], 1: [*"abce"], 2: [*"abce"]}
    # The number of ranks does not count: the rows are done for other gangs, too.
    alone = make_spec(manifest, topology__ulysses=2, **flags)
    assert make_plan(*open_run(alone), device="cpu", engine=FAKE_ENGINE).done == 2


def started_by_rank(logs: Path, worker: str) -> dict[int, list[str]]:
    """Rank -> the rows that it began, according to the logs of one gang's members."""
    found = {}
    for log in logs.iterdir():
        assert re.fullmatch(rf"{worker}-[0-9a-f]{{8}}\.jsonl", log.name)
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert lines[0]["event"] == "born"
        assert {line["worker"] for line in lines} == {worker}
        (rank,) = [line["rank"] for line in lines if line["event"] == "joined"]
        found[rank] = [line["row"] for line in lines if line["event"] == "started"]
    return found


def test_a_gang_that_loses_a_member_is_replaced(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path
) -> None:
    """One fault after the other, each in the gang that replaces the last one, with a good row in between."""
    faults = ["die-once@1", "die-once@0", "raise-once@0", "hang-once@0", "stop-once@1"]
    commands = ["", "", *(command for fault in faults for command in ("", f"{fault}:{tmp_path}/{fault}"))]
    faulty = {f"{i:02d}": command for i, command in enumerate(commands) if command}
    signs = {f"{i:02d}": folder(tmp_path / f"{i:02d}") for i in range(len(commands))}
    prompts = {i: f"sign:{path} {faulty.get(i, '')}" for i, path in signs.items()}
    spec = make_spec(
        make_manifest(*({"id": i, "prompt": prompt} for i, prompt in prompts.items())),
        topology__replicas=1,
        topology__ulysses=2,
        topology__watchdog={"encode": 3, "denoise": 3},
    )
    result = run(spec, poll_seconds=1.0, blame_seconds=0.2)
    assert (result.done, result.failed, result.exit_status) == (len(commands), 0, 0)
    done = entries(tmp_path / "out")
    assert sorted((entry["id"], entry["status"]) for entry in done) == [(i, "done") for i in signs]
    worker = {entry["id"]: entry["worker"] for entry in done}
    assert max(worker.values()).endswith(f"-{len(faults) + 1:04d}")
    for i in faulty:
        both = signs_in(signs[i])
        first, second = both[:2], both[2:]
        assert [sorted(sign.rank for sign in gang) for gang in (first, second)] == [[0, 1]] * 2
        # All members are gone: one that no longer answers would keep its NPU, too.
        assert len({sign.pid for sign in both}) == 4
        wait_until(lambda first=first: all(is_gone(sign.pid) for sign in first))
    # No finished video is lost with a follower: the leader finished what it was encoding. Only the video
    # before the fault may still have waited for encoding.
    assert worker["00"] == worker["01"] != worker["03"]
    assert [len(signs_in(signs[i])) for i in ("00", "01")] == [2, 2]


def test_a_gang_whose_leader_freezes_does_not_delay_the_others(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other gang works on meanwhile, in the same processes.

    Ray reports a worker's death before its process has ended, which may still be storing the video: the row
    goes back when the process has ended.
    """
    struck, signs, happened = folder(tmp_path / "struck"), folder(tmp_path / "signs"), tmp_path / "happened"
    back, put_back = [], RowQueue.put_back

    def record(row_queue: RowQueue, queued: QueuedRow) -> None:
        if queued.row.id == "00":
            back.append([is_gone(sign.pid) for sign in signs_in(struck)])
        put_back(row_queue, queued)

    monkeypatch.setattr(RowQueue, "put_back", record)
    prompts = [f"sign:{struck} stop-once@0:{happened}", *[f"sign:{signs} sleep:0.1"] * 59]
    spec = make_spec(
        make_manifest(*({"id": f"{i:02d}", "prompt": prompt} for i, prompt in enumerate(prompts))),
        topology__ulysses=2,
        topology__shard_size=1,
        topology__watchdog={"encode": 3, "denoise": 3},
    )
    result = run(spec, poll_seconds=1.0, last_words_seconds=1.0)
    assert (result.done, result.failed, result.exit_status) == (60, 0, 0)
    done = entries(tmp_path / "out")
    assert sorted((entry["id"], entry["status"]) for entry in done) == [
        (f"{i:02d}", "done") for i in range(60)
    ]
    first, second = signs_in(struck)[:2], signs_in(struck)[2:]
    assert [sorted(sign.rank for sign in gang) for gang in (first, second)] == [[0, 1]] * 2
    assert back == [[True, True]]
    # Between the fault and the first row of the replacement, the other gang rendered many more rows than it
    # had at the time of the fault.
    pids = {sign.pid for sign in first}
    rest = [sign for sign in signs_in(signs) if sign.pid not in pids]
    assert len(rest) in (2, 4)
    at = datetime.fromtimestamp(happened.stat().st_mtime, UTC)
    rebuilt = min([second[0].at, *(sign.at for sign in rest[2:])])
    meanwhile = [entry["worker"] for entry in done if at < entry["finished_at"] < rebuilt]
    assert len(set(meanwhile)) == 1
    assert len(meanwhile) > 10
    assert len({entry["worker"] for entry in done}) <= 3


def test_a_row_that_breaks_its_gangs_is_given_up(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path
) -> None:
    rows = {
        "die@1:": ("WorkerDied", "rank 1 on node 1 died: its process crashed, or was killed"),
        # An error of the same class on all ranks does not show that they are in step.
        "raise:oops": ("RuntimeError", "raised RuntimeError: oops"),
    }
    spec = make_spec(
        make_manifest(*rows, "three"), topology__replicas=1, topology__ulysses=2, faults__max_attempts=1
    )
    result = run(spec)
    assert (result.done, result.failed) == (1, 2)
    failed = {entry["id"]: entry for entry in entries(tmp_path / "out") if entry["status"] == "failed"}
    for row_id, (error, last) in zip("ab", rows.values(), strict=True):
        assert failed[row_id]["error_class"] == error
        message = failed[row_id]["error_message"]
        assert message.startswith("1 worker died with this row; the last: rank ")
        assert last in message
        # Hosts and processes are of no interest to the people who get the videos.
        assert not re.search(r"\d+\.\d+\.\d+\.\d+|pid", message)


def test_ranks_have_an_npu_each_and_follow_their_order(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path
) -> None:
    """`auto` chooses two gangs; each gets a row that waits until the other row has begun."""
    one, two = folder(tmp_path / "one"), folder(tmp_path / "two")
    begun_one, begun_two = tmp_path / "begun-one", tmp_path / "begun-two"
    prompts = [
        f"sign:{one} touch:{begun_one} wait:{begun_two}",
        f"sign:{two} touch:{begun_two} wait:{begun_one}",
    ]
    spec = make_spec(make_manifest(*prompts), topology__device="ascend", topology__replicas="auto")
    output = io.StringIO()
    assert run(spec, Console(file=output, width=200)).exit_status == 0
    assert "replicas: 2, each a gang of 2 (ulysses 2, ring 1, cfg 1)" in output.getvalue()
    found = [sorted(signs_in(signs), key=lambda sign: sign.rank) for signs in (one, two)]
    assert [[sign.rank for sign in gang] for gang in found] == [[0, 1], [0, 1]]
    numbers = [[int(sign.npu) for sign in gang] for gang in found]
    assert sorted(number for gang in numbers for number in gang) == list(range(NPUS))
    assert numbers == [sorted(gang) for gang in numbers]


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("dies-when-loaded", " died: its process crashed, or was killed"),
        ("breaks-when-loaded", "could not load the model: RuntimeError: device 0 is on fire"),
        ("hangs-when-loaded", "in load, topology.watchdog.load is 2"),
    ],
)
def test_a_gang_that_cannot_load_ends_the_run(
    make_spec: MakeSpec,
    make_manifest: MakeManifest,
    model: str,
    reason: str,
) -> None:
    # With an error, there is no death to wait for.
    blame = {"blame_seconds": 0.2} if model.startswith("breaks") else {}
    limits = {"load": 2} if model.startswith("hangs") else {}
    spec = make_spec(
        make_manifest("one"),
        model__id=model,
        topology__replicas=1,
        topology__ulysses=2,
        topology__watchdog=limits,
    )
    result = run(spec, poll_seconds=0.5, max_deaths=1, **blame)
    assert (result.done, result.failed, result.exit_status) == (0, 0, 1)
    assert "no worker can be kept alive: rank " in result.message
    assert reason in result.message


def test_a_fault_of_all_rows_ends_the_run_and_gives_up_no_row(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path
) -> None:
    spec = make_spec(make_manifest(*"abcdef"), model__id="dies-in-every-row", topology__replicas=1)
    result = run(spec, max_killed_first=2)
    assert (result.done, result.failed, result.exit_status) == (0, 0, 1)
    assert "no worker can be kept alive: the worker died: " in result.message
    assert not (tmp_path / "out" / "ledger").exists()


def test_a_gang_that_finds_no_place_is_reported_and_ends_the_run(
    make_spec: MakeSpec, make_manifest: MakeManifest
) -> None:
    output = io.StringIO()
    held = placement_group([{"NPU": 3}])
    ray.get(held.ready())
    spec = make_spec(
        make_manifest("one"), topology__device="ascend", topology__replicas=1, topology__ulysses=2
    )
    try:
        console = Console(file=output, width=200)
        result = run(spec, console, line_seconds=0.0, start_seconds=1.5, place_seconds=0.5)
    finally:
        remove_placement_group(held)
    assert (result.done, result.exit_status) == (0, 1)
    assert "a replica needs 2 NPUs, the cluster has 4, of which 1 are free" in result.message
    assert "waiting for 2 NPUs: 0 of 1 rows" in output.getvalue()


def test_a_member_that_opens_no_rendezvous_in_time_ends_the_run(
    make_spec: MakeSpec, make_manifest: MakeManifest
) -> None:
    spec = make_spec(make_manifest("one"), topology__replicas=1, topology__ulysses=2)
    result = run(spec, gather_seconds=0.0, max_deaths=1)
    assert (result.done, result.exit_status) == (0, 1)
    assert "did not come within 0 s" in result.message


@pytest.mark.parametrize(
    ("topology", "parts"),
    [
        (
            {"replicas": 3, "ulysses": 2},
            ["3 with 2 ranks each need 6 NPUs", "has 4", "replicas: 2 have room"],
        ),
        ({"replicas": 1, "ulysses": 6, "cfg": 2}, ["need 12 NPUs", "ulysses: 2, ring: 1, cfg: 2 has room"]),
        ({"replicas": 2, "npus": 1}, ["need 2 NPUs", "topology.npus is 1", "replicas: 1 have room"]),
        ({"replicas": 1, "memory": "10KB"}, ["a rank needs 1 MB"]),
    ],
)
def test_gangs_that_do_not_fit_are_refused(
    make_spec: MakeSpec, make_manifest: MakeManifest, topology: dict[str, int], parts: list[str]
) -> None:
    flags = {f"topology__{name}": value for name, value in topology.items()}
    with pytest.raises(Refused) as refused:
        run(make_spec(make_manifest("one"), topology__device="ascend", **flags))
    for part in parts:
        assert part in str(refused.value)


@pytest.mark.usefixtures("unchecked")
def test_a_real_model_renders_in_a_gang_what_diffusers_renders(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path
) -> None:
    """Within 1/255, the precision of stored frames; the result says how much the ranks sent to each other."""
    case = references.case("5b")
    given = {name for request in case.requests for name in request.values()}
    rows = [
        {"id": str(k)} | {name: request.values().get(name) for name in given}
        for k, request in enumerate(case.requests)
    ]
    spec = make_spec(
        make_manifest(*rows), model__id=str(case.checkpoint), topology__replicas=1, topology__ulysses=2
    )
    result = render(spec, Console(file=io.StringIO()))
    assert (result.done, result.exit_status) == (2, 0), result
    found = sorted(entries(tmp_path / "out"), key=itemgetter("id"))
    for entry, frames in zip(found, case.frames, strict=True):
        stored = np.load(entry["uri"]).astype(int)
        assert np.abs(stored - to_uint8(frames).astype(int)).max() <= 1
        assert stored.std() > 0
    sent = dict(result.lines())["sent"]
    assert "a video by rank 0: " in sent
    assert "ulysses " in sent
