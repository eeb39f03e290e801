"""Pools of processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import BrokenExecutor
from pathlib import Path

import pytest

from vidgen_dist.processes import open_pool, run_in_process


@pytest.mark.parametrize("processes", [1, 2])
def test_results_and_errors_come_back(processes: int) -> None:
    with open_pool(processes) as pool:
        futures = [pool.submit(int, text) for text in ("1", "x", "3")]
        assert [futures[0].result(), futures[2].result()] == [1, 3]
        with pytest.raises(ValueError, match="'x'"):
            futures[1].result()
        assert (pool.submit(os.getpid).result() == os.getpid()) == (processes == 1)


def test_nothing_is_left_waiting_when_the_block_raises() -> None:
    futures = []

    def give_up() -> None:
        with open_pool(2) as pool:
            futures.extend(pool.submit(time.sleep, 0.05) for _ in range(200))
            raise KeyError

    with pytest.raises(KeyError):
        give_up()
    assert sum(future.cancelled() for future in futures) > 150


def test_what_runs_apart_returns_raises_or_dies() -> None:
    assert run_in_process(os.getpid) != os.getpid()
    with pytest.raises(ValueError, match="'x'"):
        run_in_process(int, "x")
    with pytest.raises(BrokenExecutor):
        run_in_process(os._exit, 1)


PARENT = """
import os, sys, time
from vidgen_dist.processes import open_pool

if __name__ == "__main__":
    with open_pool(2) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        time.sleep(60)
"""


def _lives(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_they_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    with subprocess.Popen(
        [sys.executable, tmp_path / "parent.py"], stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert _lives(child)
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while _lives(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)
