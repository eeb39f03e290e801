"""`vidgen status --watch`: a line now and then, a live view, and how it ends."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.commands import Vidgen
from tests.maintenance.outputs import write_status
from tests.waiting import PATIENCE, wait_until
from vidgen_dist.cli.watching import line_of, view_of
from vidgen_dist.maintenance.watch import Sighting, watch
from vidgen_dist.output.lease import acquire
from vidgen_dist.output.status_file import GangStatus, RunStatus, read_status_file
from vidgen_dist.output_layout import STATUS_FILE
from vidgen_dist.storage.folder import open_storage

ROOT = Path(__file__).parents[2]


@pytest.fixture
def output(tmp_path: Path, make_manifest: Callable[..., str]) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    manifest = make_manifest(*map(str, range(8)))
    (folder / "run.yaml").write_text(
        f"model: {{id: m}}\nmanifest: {{uri: '{manifest}'}}\noutput: {{uri: '{folder}'}}\n"
    )
    return folder


def run_of(output: Path) -> RunStatus:
    found = read_status_file(open_storage(output))
    assert found is not None
    return found


def busy_gangs(count: int) -> list[GangStatus]:
    since = datetime.now(UTC) - timedelta(seconds=70)
    at_work: dict[str, Any] = {"state": "rendering", "since": since, "stage": "denoise", "steps": 50}
    gangs = [GangStatus(gang=f"r-{n}", replica=n, row=f"row[{n}]", step=n, **at_work) for n in range(count)]
    return [GangStatus(gang="idler", replica=99, state="idle"), *gangs]


def test_what_is_seen_of_a_run_from_its_start_to_its_end(output: Path) -> None:
    """Also an earlier run's status is none of a run that has only just taken the output."""
    storage = open_storage(output)
    write_status(output, run="before", state="finished")
    seen: list[Sighting] = []
    with acquire(storage, "r", print_line=print):
        waits: list[float] = []
        for sighting in watch(str(output), wait=waits.append):
            seen.append(sighting)
            if len(seen) == 1:
                write_status(output, refresh_seconds=30.0)
            elif len(seen) == 2:
                (output / STATUS_FILE).rename(output / "away")
                (output / STATUS_FILE).mkdir()
            elif len(seen) == 3:
                (output / STATUS_FILE).rmdir()
                (output / "away").rename(output / STATUS_FILE)
            else:
                write_status(output, state="finished")
    assert [(each.name, each.run is not None, bool(each.fault)) for each in seen] == [
        ("r", False, False),
        ("r", True, False),
        ("", False, True),
        ("r", True, False),
    ]
    assert waits == [5.0, 30.0, 30.0, 30.0]


def test_a_run_that_was_killed_is_not_watched(output: Path) -> None:
    write_status(output)
    storage = open_storage(output)
    with acquire(storage, "r", print_line=print):
        lease = (output / ".lease.json").read_bytes()
        assert next(watch(str(output))).run is not None
    (output / ".lease.json").write_bytes(lease)
    assert list(watch(str(output))) == []


@pytest.mark.parametrize(
    ("ended", "status"),
    [
        ({"state": "finished", "done": 8, "failed": 0, "pending": 0}, 0),
        ({"state": "finished", "done": 7, "failed": 1, "pending": 0}, 1),
        ({"state": "interrupted", "done": 5, "failed": 1, "pending": 2}, 130),
        ({"state": "stopped", "done": 5, "failed": 1, "pending": 2}, 1),
    ],
)
def test_the_exit_status_says_how_the_run_stands(
    output: Path, vidgen: Vidgen, ended: dict[str, Any], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vidgen_dist.maintenance.status.is_current", lambda *_: True)
    write_status(output, **ended)
    ran = vidgen("status", output, "--watch")
    assert ran.status == status
    assert f" r {ended['state']} " in ran.out


def test_watching_is_refused_where_there_is_nothing_to_watch(vidgen: Vidgen, tmp_path: Path) -> None:
    assert vidgen("status", tmp_path, "--watch").status == 2
    assert "--watch and --json" in vidgen("status", tmp_path, "--watch", "--json").err


def test_a_line_says_all_that_matters(output: Path) -> None:
    write_status(output, gangs=busy_gangs(3), gang_states={"idle": 1, "rendering": 3})
    line = line_of(Sighting(run_of(output), "r"))
    said = "6 of 8 rows, 1 failed, 0.5 videos/min, 4 min 00 s left; gangs: 1 idle, 3 rendering"
    assert line.endswith(f"Z {said}")
    assert "run r has not reported yet" in line_of(Sighting(name="r"))
    assert "cannot be read: the disk is gone" in line_of(Sighting(fault="the disk is gone"))


def test_the_view_fits_on_the_screen_and_shows_what_gangs_do(output: Path) -> None:
    write_status(output, gangs=busy_gangs(1000))
    console = Console(file=io.StringIO(), width=80, height=24)
    with console.capture() as captured:
        console.print(view_of(Sighting(run_of(output), "r"), console.height))
    lines = captured.get().splitlines()
    assert len(lines) <= console.height
    shown = captured.get()
    assert "failed: 1 VideoRejected" in shown
    assert "row [x] on r-1: for 10 min 00 s, usually 2 min 00 s" in shown
    (line,) = (line.split() for line in lines if line.startswith("r-2 "))
    assert line[:3] == ["r-2", "rendering", "row[2]"]
    assert line[3:5] == ["1", "min"]
    assert line[-4:] == ["denoise", "2", "of", "50"]
    assert "idler" not in shown
    assert lines[-1].startswith("and 99")


def watching(output: Path, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "vidgen_dist", "status", str(output), "--watch", "--interval", "0.1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment, preexec_fn=heed_ctrl_c, **options
    )


def heed_ctrl_c() -> None:
    """A shell starts what it leaves in the background deaf for SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_ends_only_the_watching(output: Path) -> None:
    write_status(output)
    with watching(output, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().endswith("gangs: 1 loading, 2 rendering\n")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (130, "")


def test_it_ends_when_nobody_reads(output: Path) -> None:
    write_status(output)
    with watching(output) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        wait_until(lambda: process.poll() is not None)


def test_the_view_on_a_terminal(output: Path) -> None:
    """In a pseudo terminal: the view is drawn, and taken away at the end."""
    write_status(output, gangs=busy_gangs(2))
    own, its = os.openpty()
    shown = bytearray()

    def read() -> bool:
        """Read on; whether nothing more will come. Who does not read a terminal stops its writers."""
        try:
            piece = os.read(own, 65536)
        except OSError:
            # Linux says so where all writers are gone.
            return True
        shown.extend(piece)
        return not piece

    environment = {**os.environ, "TERM": "xterm", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "vidgen_dist", "status", str(output), "--watch"]
    process = subprocess.Popen(
        command, stdin=its, stdout=its, stderr=its, env=environment, preexec_fn=heed_ctrl_c
    )
    try:
        os.close(its)
        wait_until(lambda: read() or b"of 50" in shown)
        process.send_signal(signal.SIGINT)
        drawn = len(shown)
        wait_until(read)
        rest = bytes(shown[drawn:])
        process.wait(PATIENCE)
    finally:
        process.kill()
        process.wait()
        os.close(own)
    assert process.returncode == 130
    # Lines are erased, and the cursor is shown again.
    assert b"\x1b[2K" in rest
    assert b"\x1b[?25h" in rest
