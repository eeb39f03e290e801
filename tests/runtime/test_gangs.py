"""Gangs of several ranks on a local Ray, with the fast fake engine: rows, deaths, hangs, places, refusals."""

from __future__ import annotations

import io
import itertools
import os
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from operator import itemgetter
from pathlib import Path

import numpy as np
import pytest
import ray
from PIL import Image
from ray.util import placement_group, placement_group_table, remove_placement_group
from rich.console import Console

from tests.runtime.conftest import FAKE_ENGINE, NPUS, entries, signs_in
from vidgen_dist import demo
from vidgen_dist.errors import Refused
from vidgen_dist.media import to_uint8
from vidgen_dist.pipelines.loading import load_pipeline
from vidgen_dist.request import RenderRequest
from vidgen_dist.runtime import crew
from vidgen_dist.runtime.driver import RunResult, render
from vidgen_dist.runtime.feeding import Feed, Task
from vidgen_dist.runtime.observability import progress
from vidgen_dist.spec import RunSpec

PATIENCE = 60.0

MakeSpec = Callable[..., RunSpec]
MakeManifest = Callable[..., str]


@pytest.fixture(autouse=True)
def nothing_is_left(local_ray: None) -> Iterator[None]:
    """After every run all places are free again."""
    assert local_ray is None
    yield
    wait_until(lambda: all_free() and all(group["state"] == "REMOVED" for group in groups()))


def groups() -> list[dict[str, str]]:
    return list(placement_group_table().values())


def all_free() -> bool:
    free, there = ray.available_resources(), ray.cluster_resources()
    return all(free.get(kind) == there[kind] for kind in ("CPU", "NPU"))


def wait_until(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.1)


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def run(spec: RunSpec, console: Console | None = None) -> RunResult:
    return render(spec, console or Console(file=io.StringIO()), engine=FAKE_ENGINE)


def folder(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize("degrees", [{"topology__cfg": 2}, {"topology__ring": 3, "topology__replicas": 1}])
def test_every_row_is_rendered_by_all_ranks_and_written_once(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path, degrees: dict[str, int]
) -> None:
    folders = [folder(tmp_path / name) for name in "abcdef"]
    manifest = make_manifest(*(f"sign:{path}" for path in folders))
    spec = make_spec(manifest, **degrees)
    assert run(spec).exit_status == 0
    assert sorted((e["id"], e["status"]) for e in entries(tmp_path / "out")) == [
        (i, "done") for i in "abcdef"
    ]
    for path in folders:
        signs = signs_in(path)
        assert sorted(sign.rank for sign in signs) == list(range(spec.topology.ranks))
        assert len({sign.pid for sign in signs}) == spec.topology.ranks
    # What renders a row is no part of what it is.
    assert "nothing to render: all 6 rows are done" in run(make_spec(manifest)).message


@pytest.mark.parametrize(
    ("fault", "ranks"),
    [
        ("die-once@1", 2),
        ("die-once@0", 2),
        ("stop-once@1", 2),
        ("stop-once@0", 1),
        ("hang-once@1", 2),
        ("hang-once@0", 2),
    ],
)
def test_a_member_that_dies_or_hangs(
    make_spec: MakeSpec,
    make_manifest: MakeManifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    ranks: int,
) -> None:
    """Its gang is replaced and its row done; the other gang works on meanwhile, in the same processes."""
    monkeypatch.setattr(crew, "POLL_SECONDS", 1.0)
    struck, signs, happened = folder(tmp_path / "struck"), folder(tmp_path / "signs"), tmp_path / "happened"
    prompts = [f"sign:{struck} {fault}:{happened}", *[f"sign:{signs} sleep:0.1"] * 49]
    manifest = make_manifest(*({"id": f"{i:02d}", "prompt": prompt} for i, prompt in enumerate(prompts)))
    spec = make_spec(
        manifest,
        topology__ulysses=ranks,
        topology__shard_size=1,
        topology__watchdog={"encode": 5, "denoise": 5},
    )
    result = run(spec)
    assert (result.done, result.failed, result.exit_status) == (50, 0, 0)
    done = entries(tmp_path / "out")
    assert sorted((entry["id"], entry["status"]) for entry in done) == [
        (f"{i:02d}", "done") for i in range(50)
    ]
    # All of the gang is gone: also one that does not answer would keep its NPU.
    first = signs_in(struck)[:ranks]
    assert sorted(sign.rank for sign in first) == list(range(ranks))
    wait_until(lambda: all(is_gone(sign.pid) for sign in first))
    # The row was done by another gang.
    assert len(signs_in(struck)) == 2 * ranks
    at = datetime.fromtimestamp(happened.stat().st_mtime, UTC)
    struck_pids = {sign.pid for sign in first}
    rest = [sign for sign in signs_in(signs) if sign.pid not in struck_pids]
    assert len(rest) in (ranks, 2 * ranks)
    rebuilt = rest[ranks].at if rest[ranks:] else datetime.max.replace(tzinfo=UTC)
    meanwhile = [entry for entry in done if at < entry["finished_at"] < rebuilt]
    (name,) = {entry["worker"] for entry in meanwhile}
    # It never paused for as long as the other one took to be noticed and replaced.
    # The last ones may be rows that the lost gang held: they had to wait for its end.
    ended = sorted(entry["finished_at"] for entry in meanwhile)[:-3]
    gaps = [(b - a).total_seconds() for a, b in itertools.pairwise([at, *ended])]
    assert max(gaps) < max(2.0, (ended[-1] - at).total_seconds() / 2), (name, gaps)
    assert len({entry["worker"] for entry in done}) <= 3


def test_a_followers_death_takes_no_finished_video_with_it(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path
) -> None:
    """What was being encoded is finished, and told."""
    signs, happened = folder(tmp_path / "signs"), tmp_path / "happened"
    prompts = [f"sign:{folder(signs / i)}" for i in "abc"] + [f"die-once@1:{happened}", *"efgh"]
    spec = make_spec(make_manifest(*prompts), topology__replicas=1, topology__ulysses=2)
    assert run(spec).done == 8
    done = entries(tmp_path / "out")
    assert sorted((entry["id"], entry["status"]) for entry in done) == [(i, "done") for i in "abcdefgh"]
    # The leader finished them after the death: they are of one shard.
    assert {entry["worker"] for entry in done if entry["id"] in "abc"} == {done[0]["worker"]}
    for row_id in "abc":
        assert len(signs_in(signs / row_id)) == 2


def test_the_row_of_a_frozen_leader_goes_back_when_it_is_gone(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray says that a worker is dead before its process is: it may still be storing the video."""
    signs, back = folder(tmp_path / "signs"), []
    put_back = Feed.put_back

    def note(feed: Feed, task: Task) -> None:
        back.append([is_gone(sign.pid) for sign in signs_in(signs)])
        put_back(feed, task)

    monkeypatch.setattr(Feed, "put_back", note)
    monkeypatch.setattr(crew, "LAST_WORDS_SECONDS", 1.0)
    monkeypatch.setattr(crew, "POLL_SECONDS", 0.5)
    spec = make_spec(
        make_manifest(f"sign:{signs} stop-once:{tmp_path}/happened"),
        topology__replicas=1,
        topology__watchdog={"encode": 2, "denoise": 2},
    )
    assert run(spec).done == 1
    assert back == [[True]]


def test_a_rows_own_error_leaves_the_gang_standing(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path
) -> None:
    signs = folder(tmp_path / "signs")
    Image.new("RGB", (16, 16)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    rows = [
        ("a", "", "good"),
        ("b", "nan:oops", "good"),
        ("c", "", "bad"),
        ("d", "", "missing"),
        ("e", "", "good"),
    ]
    manifest = make_manifest(
        *({"id": i, "prompt": f"sign:{signs} {order}", "image": f"{image}.png"} for i, order, image in rows)
    )
    spec = make_spec(manifest, model__task="image-to-video", topology__replicas=1, topology__ulysses=2)
    result = run(spec)
    assert (result.done, result.failed) == (2, 3)
    errors = {entry["id"]: entry["error_class"] for entry in entries(tmp_path / "out")}
    assert errors == {
        "a": None,
        "b": "NumericalError",
        "c": "MediaError",
        "d": "FileNotFoundError",
        "e": None,
    }
    # The processes of the first row rendered all of them.
    assert len(signs_in(signs)) == 2
    assert len({entry["worker"] for entry in entries(tmp_path / "out")}) == 1


def test_an_error_of_one_rank_breaks_the_gang(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew, "BLAME_SECONDS", 0.2)
    one, two = folder(tmp_path / "one"), folder(tmp_path / "two")
    prompts = [f"sign:{one} raise-once@1:{tmp_path}/f1", f"sign:{two} raise-once@0:{tmp_path}/f2", "three"]
    spec = make_spec(make_manifest(*prompts), topology__replicas=1, topology__ulysses=2)
    result = run(spec)
    assert (result.done, result.failed, result.exit_status) == (3, 0, 0)
    assert sorted(entry["status"] for entry in entries(tmp_path / "out")) == ["done"] * 3
    for signs in (one, two):
        assert len({sign.pid for sign in signs_in(signs)}) == 4


@pytest.mark.parametrize(
    ("fault", "error", "last"),
    [
        ("die@1:", "WorkerDied", "the last: rank 1 on node 1 died: its process crashed, or was killed"),
        # An error of the same class on all ranks does not say that they are at the same place.
        ("raise:oops", "RuntimeError", "raised RuntimeError: oops"),
    ],
)
def test_a_row_that_breaks_every_gang_is_given_up(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path, fault: str, error: str, last: str
) -> None:
    result = run(make_spec(make_manifest("one", fault), topology__replicas=1, topology__ulysses=2))
    assert (result.done, result.failed) == (1, 1)
    (failed,) = [entry for entry in entries(tmp_path / "out") if entry["status"] == "failed"]
    assert failed["error_class"] == error
    assert f"{crew.MAX_DEATHS} workers died with this row; the last: rank " in failed["error_message"]
    assert last in failed["error_message"]
    # Neither a host nor a process is of interest to those who get the videos.
    assert not re.search(r"\d+\.\d+\.\d+\.\d+|pid", failed["error_message"])


def test_ranks_have_an_npu_each_and_follow_their_order(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path
) -> None:
    """Two gangs, one row each, of which each waits for the other to have begun."""
    one, two = folder(tmp_path / "one"), folder(tmp_path / "two")
    begun_one, begun_two = tmp_path / "begun-one", tmp_path / "begun-two"
    prompts = [
        f"sign:{one} touch:{begun_one} wait:{begun_two}",
        f"sign:{two} touch:{begun_two} wait:{begun_one}",
    ]
    spec = make_spec(make_manifest(*prompts), topology__device="ascend", topology__ulysses=2)
    assert run(spec).exit_status == 0
    found = [sorted(signs_in(signs), key=lambda sign: sign.rank) for signs in (one, two)]
    assert [[sign.rank for sign in gang] for gang in found] == [[0, 1], [0, 1]]
    numbers = [[int(sign.npu) for sign in gang] for gang in found]
    assert sorted(number for gang in numbers for number in gang) == list(range(NPUS))
    assert numbers == [sorted(gang) for gang in numbers]


def test_ranks_on_cpu_divide_the_cores(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path
) -> None:
    signs = folder(tmp_path / "signs")
    spec = make_spec(make_manifest(f"sign:{signs}"), topology__replicas=1, topology__ulysses=2)
    assert run(spec).exit_status == 0
    cores = [set(sign.cores.split("+")) for sign in signs_in(signs)]
    here = {str(core) for core in os.sched_getaffinity(0)}
    assert cores[0] | cores[1] <= here
    assert not (cores[0] & cores[1]) or len(here) == 1


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("dies-when-loaded", " died: its process crashed, or was killed"),
        ("breaks-when-loaded", "could not load the model: RuntimeError: device 0 is on fire"),
        ("hangs-when-loaded", "in load, topology.watchdog.load is 2"),
    ],
)
def test_a_gang_that_cannot_load_ends_the_run(
    make_spec: MakeSpec,
    make_manifest: MakeManifest,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    told: str,
) -> None:
    monkeypatch.setattr(crew, "POLL_SECONDS", 0.5)
    if model.startswith("breaks"):
        # No death is to be waited for.
        monkeypatch.setattr(crew, "BLAME_SECONDS", 0.2)
    limits = {"load": 2} if model.startswith("hangs") else {}
    spec = make_spec(
        make_manifest("one"),
        model__id=model,
        topology__replicas=1,
        topology__ulysses=2,
        topology__watchdog=limits,
    )
    result = run(spec)
    assert (result.done, result.failed, result.exit_status) == (0, 0, 1)
    assert "no worker can be kept alive: rank " in result.message
    assert told in result.message


def test_a_fault_of_all_rows_ends_the_run_and_gives_up_no_row(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path
) -> None:
    spec = make_spec(make_manifest(*"abcdef"), model__id="dies-in-every-row", topology__replicas=1)
    result = run(spec)
    assert (result.done, result.failed, result.exit_status) == (0, 0, 1)
    assert "no worker can be kept alive: the worker died: " in result.message
    assert not (tmp_path / "out" / "ledger").exists()


def test_rows_that_kill_every_gang_do_not_end_a_replica(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path
) -> None:
    """Neither the first one, with nothing done before it, nor several at the end."""
    spec = make_spec(make_manifest("die:", "two", "three", "die:", "die:"), topology__replicas=1)
    result = run(spec)
    assert (result.done, result.failed, result.exit_status) == (2, 3, 1)
    failed = {entry["id"] for entry in entries(tmp_path / "out") if entry["status"] == "failed"}
    assert failed == {"a", "d", "e"}


@pytest.mark.usefixtures("local_ray")
def test_a_gang_that_finds_no_place_is_spoken_of_and_ends_the_run(
    make_spec: MakeSpec, make_manifest: MakeManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew, "START_SECONDS", 2.0)
    monkeypatch.setattr(crew, "PLACE_SECONDS", 0.5)
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    said = io.StringIO()
    held = placement_group([{"NPU": 3}])
    ray.get(held.ready())
    spec = make_spec(
        make_manifest("one"), topology__device="ascend", topology__replicas=1, topology__ulysses=2
    )
    try:
        result = run(spec, Console(file=said, width=200))
    finally:
        remove_placement_group(held)
    assert (result.done, result.exit_status) == (0, 1)
    assert "a replica needs 2 NPUs, the cluster has 4, of which 1 are free" in result.message
    assert "waiting for 2 NPUs: 0 of 1 rows" in said.getvalue()


def test_a_member_that_does_not_come_ends_the_start(
    make_spec: MakeSpec, make_manifest: MakeManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew, "GATHER_SECONDS", 0.0)
    spec = make_spec(make_manifest("one"), topology__replicas=1, topology__ulysses=2)
    result = run(spec)
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
def test_what_has_no_room_is_refused(
    make_spec: MakeSpec, make_manifest: MakeManifest, topology: dict[str, int], parts: list[str]
) -> None:
    flags = {f"topology__{name}": value for name, value in topology.items()}
    with pytest.raises(Refused) as refused:
        run(make_spec(make_manifest("one"), topology__device="ascend", **flags))
    for part in parts:
        assert part in str(refused.value)


def test_auto_takes_what_is_chosen(make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path) -> None:
    signs, said = folder(tmp_path / "signs"), io.StringIO()
    spec = make_spec(make_manifest(f"sign:{signs}"), topology__device="ascend", topology__replicas="auto")
    assert run(spec, Console(file=said, width=200)).exit_status == 0
    assert "replicas: 1, each a gang of 2 (ulysses 2, ring 1, cfg 1)" in said.getvalue()
    assert sorted(sign.rank for sign in signs_in(signs)) == [0, 1]


def test_a_real_model_renders_in_a_gang_what_it_renders_alone(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within 1/255, which is as fine as stored frames are; and what ranks sent to each other is told."""
    small = {"height": 32, "width": 48, "num_frames": 5, "num_inference_steps": 2}
    rows = [{"id": i, "prompt": f"a fox, {i}", "seed": seed, **small} for seed, i in enumerate("ab")]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = str(demo.checkpoint_path())
    manifest = make_manifest(*rows)
    spec = make_spec(manifest, model__id=model, topology__replicas=1, topology__ulysses=2)
    result = render(spec, Console(file=io.StringIO()))
    assert (result.done, result.exit_status) == (2, 0), result
    pipeline = load_pipeline(model)
    for entry, row in zip(sorted(entries(tmp_path / "out"), key=itemgetter("id")), rows, strict=True):
        alone = to_uint8(pipeline(RenderRequest(**row))).astype(int)
        together = np.load(entry["uri"]).astype(int)
        assert np.abs(together - alone).max() <= 1
        assert alone.std() > 0
    sent = dict(result.lines())["sent"]
    assert "a video by rank 0: " in sent
    assert "ulysses " in sent
