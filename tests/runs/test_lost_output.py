"""Runs whose printed output cannot be read any more: they end as usual."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands import fake_vidgen
from tests.runs.drivers import flags_to_attach, ledger
from tests.waiting import PATIENCE, wait_until
from vidgen_dist.runtime.connection import _signals_kept

MakeManifest = Callable[..., str]


def command(manifest: str, output: Path) -> list[str]:
    flags = ["--model", "fake", "--device", "cpu", "--format", "npy", "--shard-size", "1", *flags_to_attach()]
    return [*fake_vidgen(), "render", manifest, str(output), *flags]


@pytest.mark.usefixtures("local_ray")
def test_a_run_goes_on_when_its_output_has_no_reader(make_manifest: MakeManifest, tmp_path: Path) -> None:
    """Standard error is a pipe whose reader is gone, and standard output is closed."""
    reader, writer = os.pipe()
    os.close(reader)
    manifest = make_manifest("one", "raise:oops", "three")
    render = command(manifest, tmp_path / "out")
    process = subprocess.run(
        ["bash", "-c", '"$@" >&-', "bash", *render], stderr=writer, check=False, timeout=PATIENCE
    )
    os.close(writer)
    assert process.returncode == 1
    assert ledger(tmp_path / "out") == {"a": "done", "b": "failed", "c": "done"}


@pytest.mark.usefixtures("local_ray")
def test_a_terminal_that_hangs_up_is_a_first_ctrl_c(make_manifest: MakeManifest, tmp_path: Path) -> None:
    """Rows that are being rendered are finished, as after Ctrl-C; the message cannot be printed."""
    go, began, output = tmp_path / "go", tmp_path / "began", tmp_path / "out"
    render = command(make_manifest(f"touch:{began} wait:{go}", *["later sleep:1"] * 5), output)
    terminal, theirs = os.openpty()
    take = (
        "import fcntl, os, signal, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
        # Under `nohup pytest` the signal is ignored.
        "signal.signal(signal.SIGHUP, signal.SIG_DFL);"
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", take, *render],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    wait_until(began.exists)
    os.close(terminal)
    # The signal comes at once; the row must still be under way when it is handled.
    time.sleep(0.5)
    go.touch()
    assert process.wait(PATIENCE) == 130
    assert ledger(output)["a"] == "done"
    assert len(ledger(output)) < 6


def test_processes_that_ray_starts_survive_a_hangup() -> None:
    command = [
        sys.executable,
        "-c",
        f"import os, signal; os.kill(os.getpid(), {signal.SIGHUP:d}); print('lives')",
    ]
    with _signals_kept():
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "lives\n"
