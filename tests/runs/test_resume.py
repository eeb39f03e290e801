"""Another gang, or the next run, resumes rows of a gang that was lost or a run that was stopped."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from tests.fake_engine import FAKE_ENGINE, FakeMesh, FakePipeline
from tests.marks import STEPS, STOP, scratch_of, steps_in
from tests.outputs import entries
from tests.runtime.worker.in_process import row
from vidgen_dist.media import to_uint8
from vidgen_dist.runtime.driver import render as driver
from vidgen_dist.runtime.interrupts import Interrupts
from vidgen_dist.spec import RunSpec

MakeSpec = Callable[..., RunSpec]
MakeManifest = Callable[..., str]


def run(spec: RunSpec) -> driver.RunResult:
    return driver.render(spec, Console(file=io.StringIO()), engine=FAKE_ENGINE)


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize(
    ("fault", "ranks", "went_on"),
    [
        # A killed process leaves the latest saved state: every third step is saved.
        ("die-once@0", 1, 4),
        # A leader whose follower dies saves its latest step.
        ("die-once@1", 2, STOP + 1),
    ],
)
def test_another_gang_resumes_a_lost_gangs_row(
    make_spec: MakeSpec,
    make_manifest: MakeManifest,
    tmp_path: Path,
    marks: Path,
    fault: str,
    ranks: int,
    went_on: int,
) -> None:
    prompt = f"mark:{marks} at:{STOP} wait:{tmp_path}/out/scratch/x.state {fault}:{tmp_path}/happened"
    spec = make_spec(
        make_manifest({"id": "x", "prompt": prompt, "num_inference_steps": STEPS, "seed": 7}),
        topology__replicas=1,
        topology__ulysses=ranks,
        output__checkpoint_every=3,
    )
    result = run(spec)
    assert (result.done, result.failed) == (1, 0)
    expected = [list(range(1, STOP + 1)), list(range(went_on, STEPS + 1))]
    assert [steps_in(marks, rank) for rank in range(ranks)] == [expected] * ranks
    (entry,) = entries(tmp_path / "out")
    same = row("x", num_inference_steps=STEPS, width=16, num_frames=2)
    whole = FakePipeline(FakeMesh()).render(same.request)
    np.testing.assert_array_equal(np.load(entry["uri"]), to_uint8(whole.frames))
    assert scratch_of(tmp_path) == []


@pytest.mark.usefixtures("local_ray")
def test_a_row_that_two_gangs_died_with_begins_at_step_0(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path, marks: Path
) -> None:
    prompt = f"mark:{marks} at:{STOP} wait:{tmp_path}/out/scratch/x.state die:"
    manifest = make_manifest({"id": "x", "prompt": prompt, "num_inference_steps": STEPS})
    result = run(make_spec(manifest, topology__replicas=1, output__checkpoint_every=3))
    assert (result.done, result.failed) == (0, 1)
    assert steps_in(marks) == [[1, 2, 3, 4, 5], [4, 5], [1, 2, 3, 4, 5]]
    assert scratch_of(tmp_path) == []


@pytest.mark.usefixtures("local_ray")
def test_a_row_that_is_given_up_leaves_no_state_and_begins_at_step_0_in_the_next_run(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path, marks: Path
) -> None:
    prompt = f"mark:{marks} at:{STOP} wait:{tmp_path}/out/scratch/x.state die-once:{tmp_path}/happened"
    manifest = make_manifest({"id": "x", "prompt": prompt, "num_inference_steps": STEPS})
    once = make_spec(manifest, topology__replicas=1, output__checkpoint_every=3, faults__max_attempts=1)
    result = run(once)
    assert (result.done, result.failed) == (0, 1)
    assert result.failures[0].startswith("x: WorkerDied: 1 worker died with this row")
    assert scratch_of(tmp_path) == []
    assert run(once).exit_status == 0
    assert steps_in(marks) == [list(range(1, STOP + 1)), list(range(1, STEPS + 1))]


@pytest.mark.usefixtures("local_ray")
def test_a_run_resumes_rows_of_the_stopped_run_before(
    make_spec: MakeSpec,
    make_manifest: MakeManifest,
    tmp_path: Path,
    marks: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """When no row is left to render, no resume state is left."""
    waits, saved = tmp_path / "waits", tmp_path / "out" / "scratch" / "x.state"

    class Preempted(Interrupts):
        preempted = property(lambda _: waits.exists(), lambda *_: None)
        # The grace ends when the row is saved.
        level = property(lambda _: 2 if saved.exists() else 1 if waits.exists() else 0, lambda *_: None)

    prompt = f"mark:{marks} at:{STOP} touch:{waits} wait:{tmp_path}/never"
    manifest = make_manifest({"id": "x", "prompt": prompt, "num_inference_steps": STEPS})
    spec = make_spec(manifest, topology__replicas=1, output__checkpoint_every=100)
    with monkeypatch.context() as patch:
        patch.setattr(driver, "Interrupts", Preempted)
        stopped = run(spec)
    assert (stopped.done, stopped.exit_status) == (0, 130)
    assert scratch_of(tmp_path) == [saved]
    # The state of a row whose worker was killed before it removed the state.
    (tmp_path / "out" / "scratch" / "y.state").touch()
    assert run(spec).exit_status == 0
    assert steps_in(marks) == [[1, 2, 3, 4, 5], [6, 7, 8]]
    assert scratch_of(tmp_path) == []
    (tmp_path / "out" / "scratch" / "z.state").touch()
    assert "nothing to render" in run(spec).message
    assert scratch_of(tmp_path) == []
