"""Lost output does not end a program."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from vidgen_dist import printing
from vidgen_dist.printing import Sink

VIDGEN = f"{sys.executable} -m vidgen_dist"


def shell(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize(
    ("command", "status", "err"),
    [
        # The pipe's reader ends before anything is printed.
        (f"({VIDGEN} --help; echo $? >&3) 3>&2 2>&1 | true", "0", ""),
        (f"{VIDGEN} status /no/such/output 2>&- >&- <&-; echo $? >&2", "2", ""),
        (
            f"{VIDGEN} --version >/dev/full; echo $? >&2",
            "2",
            "standard output cannot be written: No space left on device\n",
        ),
    ],
)
def test_a_command_whose_output_is_lost(command: str, status: str, err: str) -> None:
    ran = shell(command)
    assert ran.stderr == f"{err}{status}\n"


def test_closed_descriptors_are_taken_by_nothing_else() -> None:
    code = (
        "from vidgen_dist import printing; printing.guard(); import os, sys;"
        "print('lost', flush=True); file = open(os.devnull); sys.exit(file.fileno() < 3)"
    )
    assert shell(f'{sys.executable} -c "{code}" <&- >&- 2>&-').returncode == 0


def test_what_the_encoding_lacks_is_printed_somehow() -> None:
    code = "from vidgen_dist import printing; printing.guard(); print('fox \\N{FOX FACE}')"
    ran = shell(f'PYTHONIOENCODING=ascii {sys.executable} -c "{code}"')
    assert (ran.returncode, ran.stdout) == (0, "fox \\U0001f98a\n")


def test_a_reader_that_does_not_read() -> None:
    """A terminal after Ctrl-S, a pager: what comes then is lost, and what comes after it goes on is not."""
    there, here = os.pipe()
    with open(there, "rb", buffering=0) as reader, open(here, "wb"):
        sink = Sink(here, stall_seconds=0.01)
        sink.waits = False
        stream = io.TextIOWrapper(io.BufferedWriter(sink), encoding="utf-8", line_buffering=True)
        for _ in range(100):
            print("x" * 4095, file=stream)
        assert isinstance(sink.fault, BlockingIOError)
        assert set(reader.read(2**20)) == set(b"x\n")
        print("read", file=stream)
        assert reader.read(2**20) == b"read\n"


def test_streams_of_others_stay(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    printing.guard()
    assert (sys.stdout, sys.stderr) == before
    printing.never_wait()
    assert printing.fault_of_output() is None
    print("captured")
    assert capsys.readouterr().out == "captured\n"


def test_lines_come_at_once_under_pythonunbuffered() -> None:
    code = (
        "from vidgen_dist import printing; printing.guard(); import os, sys;"
        "print('first', file=sys.stderr); os.write(2, b'second\\n')"
    )
    ran = shell(f'PYTHONUNBUFFERED=1 {sys.executable} -c "{code}"')
    assert ran.stderr == "first\nsecond\n"
