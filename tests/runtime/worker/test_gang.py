"""Workers of one gang, all in this process."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.fake_engine import FAKE_ENGINE
from tests.runtime.worker.in_process import IDENTITY, PASSTHROUGH, WorkerHarness, finish, row, start_gang
from vidgen_dist.parallel.degrees import Degrees
from vidgen_dist.runtime.messages import Job
from vidgen_dist.runtime.worker.worker import Worker
from vidgen_dist.spec import ModelOptions, OutputOptions
from vidgen_dist.storage.folder import open_storage


def test_a_gang_renders_together_and_only_its_leader_writes(tmp_path: Path) -> None:
    Image.new("RGB", (24, 16)).save(tmp_path / "fox.png")
    (leader, *others), followers = start_gang(tmp_path / "out", 3)
    missing = row("y", image=str(tmp_path / "none.png"))
    leader.worker.submit([row("x", image=str(tmp_path / "fox.png")), missing, row("z", "nan:oops")])
    while len(leader.of("done") + leader.of("failed")) < 3:
        leader.messages += leader.worker.poll(0.2).messages
    assert (leader.of("done"), sorted(leader.of("failed"))) == (["x"], ["y", "z"])
    # The image is read once; a row whose image is missing is not announced.
    assert [announced.id for announced in followers.announced] == ["x", "z"]
    assert followers.announced[0].request.image == (tmp_path / "fox.png").read_bytes()
    finish(leader)
    assert {entry["worker"] for entry in leader.entries()} == {"w0"}
    for harness in others:
        harness.messages += harness.worker.poll(0.0).messages
        assert [message.kind for message in harness.messages] == ["seated", "ready"]


@pytest.mark.parametrize(
    ("prompt", "error", "reason"),
    [
        ("raise@1:oops", "RuntimeError", "rank 1 raised RuntimeError: oops"),
        ("raise:oops", "RuntimeError", "raised RuntimeError: oops"),
        ("uncounted@1:", "GangBroken", "ranks (0, 1) are out of step: they have begun [4, 5] exchanges"),
    ],
)
def test_a_gang_that_is_out_of_step_reports_it(tmp_path: Path, prompt: str, error: str, reason: str) -> None:
    (leader, _), _ = start_gang(tmp_path / "out", 2)
    leader.worker.submit([row("x", prompt)])
    message = next(message for message in leader.until("broken") if message.kind == "broken")
    assert (message.error, leader.of("done"), leader.of("failed")) == (error, [], [])
    assert reason in message.message


def test_a_rank_can_open_another_rendezvous(tmp_path: Path) -> None:
    job = Job(
        FAKE_ENGINE,
        ModelOptions(id="fake"),
        "cpu",
        open_storage(tmp_path),
        OutputOptions(uri=str(tmp_path)),
        IDENTITY,
        PASSTHROUGH,
        Degrees(2),
    )
    harness = WorkerHarness(Worker(job, "w"))
    harness.worker.start(None, "127.0.0.1")
    (first,) = harness.until("seated")
    harness.messages.clear()
    harness.worker.renew_rendezvous()
    (second,) = harness.until("seated")
    assert first.message != second.message
