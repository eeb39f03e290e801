"""A run in a process of its own, and the handle by which Python follows and ends it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, TypeAlias

from vidgen_dist.background import notebook
from vidgen_dist.background.attached import REFUSAL
from vidgen_dist.errors import INTERRUPTED, REFUSED, Refused
from vidgen_dist.output.run_file import load_run
from vidgen_dist.output.status_file import RunStatus, read_status_file
from vidgen_dist.output_layout import RUN_FILE
from vidgen_dist.package import checkout
from vidgen_dist.preflight.plan import open_run
from vidgen_dist.spec import RunSpec, make_spec
from vidgen_dist.storage.folder import Storage
from vidgen_dist.storage.uris import redact

if TYPE_CHECKING:
    import pyarrow as pa

ATTACHED = (sys.executable, "-m", "vidgen_dist.background.attached")
"""The beginning of the process's command line."""

LOG_LINES = 500
"""Lines that are kept of what the process prints."""

_REFRESH_SECONDS = 1.0
"""How often a notebook's picture of the run is renewed."""

_LOG_SECONDS = 5.0
"""How long the last lines of a run that has ended are waited for."""

AnySpec: TypeAlias = RunSpec | Mapping[str, Any] | str | os.PathLike[str]
"""A run: a spec, a mapping as in a run.yaml, or the path or URI of one."""

State = Literal["starting", "running", "finished", "interrupted", "stopped", "refused", "died"]


@dataclass(frozen=True)
class Progress:
    """How a run stands.

    Args:
        state: `starting` (it has not reported yet: it checks rows, starts Ray), `running`, or how it ended:
            `finished` (no row is pending), `interrupted`, `stopped` (it could not go on), `refused` or `died`
            (its process was killed).
        total: Rows of the run; None while they are not known.
        done, failed, pending: How many of them are done, have failed, or are neither; likewise.
        videos_per_minute: The run's pace; None while it is not known.
        seconds_left: Time left at that pace; likewise.
        exit_status: As of `vidgen render`; None while the run is at work.
        message: Why it stopped, was refused or died; empty otherwise.
    """

    state: State
    total: int | None = None
    done: int | None = None
    failed: int | None = None
    pending: int | None = None
    videos_per_minute: float | None = None
    seconds_left: float | None = None
    exit_status: int | None = None
    message: str = ""


def render(
    spec: AnySpec,
    *,
    overrides: Mapping[str, Any] | None = None,
) -> RunHandle:
    """Start a run in a process of its own, as `vidgen render` does, and return at once.

    The run ends with this process, as after a SIGTERM: rows that are being rendered have the run's grace.

    Args:
        spec: The run: a `RunSpec`, a mapping as in a run.yaml, or the path or URI of one.
        overrides: Dotted keys of the spec, such as `topology.replicas`, and the values that replace its own.

    Raises:
        Refused: The spec is wrong, or the output cannot be opened. What else `vidgen render` refuses is
            raised by `wait` and `results`.
    """
    return start(_spec_of(spec, overrides or {}), ATTACHED)


def _spec_of(spec: AnySpec, options: Mapping[str, Any]) -> RunSpec:
    if isinstance(spec, RunSpec):
        return spec.override(options)
    if isinstance(spec, Mapping):
        return make_spec(spec, "vidgen_dist.render").override(options)
    return load_run(os.fspath(spec), options)


def start(spec: RunSpec, command: Sequence[str]) -> RunHandle:
    """Start a run.

    Args:
        spec: The run.
        command: The beginning of the command line of a `vidgen` that is attached to this process.

    Raises:
        Refused: See `render`.
    """
    spec, output = open_run(spec)
    # Nobody else may read it: URIs can have secrets.
    folder = tempfile.TemporaryDirectory(prefix="vidgen-", ignore_cleanup_errors=True)
    run_file = Path(folder.name, RUN_FILE)
    run_file.write_text(spec.to_yaml(), encoding="utf-8")
    started = datetime.now(UTC)
    process = subprocess.Popen(
        [*command, "render", str(run_file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=_environment(),
        # A notebook's interrupt goes to its whole group.
        start_new_session=True,
    )
    return RunHandle(process, output, started, folder)


def _environment() -> dict[str, str]:
    """The process's environment, in which it finds this package as this process does."""
    if (folder := checkout()) is None:
        return dict(os.environ)
    known = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [folder, known]))}


class RunHandle:
    """A run that was started by `render`. All methods may be called from any thread.

    Args:
        process: Its process.
        output: Its output.
        started: When it was started, in UTC.
        folder: What is removed when it has ended.
    """

    def __init__(
        self,
        process: subprocess.Popen[str],
        output: Storage,
        started: datetime,
        folder: tempfile.TemporaryDirectory[str],
    ) -> None:
        self._process = process
        self._output = output
        self._started = started
        self._folder = folder
        self._log: deque[str] = deque(maxlen=LOG_LINES)
        self._refusal: list[str] | None = None
        self._latest = Progress("starting")
        assert process.stdout is not None
        # As long as it reads, the handle is alive, and with it the run.
        self._reader = threading.Thread(target=self._read, args=(process.stdout,), name="run", daemon=True)
        self._reader.start()

    @property
    def output(self) -> str:
        """The run's output."""
        return self._output.root

    @property
    def pid(self) -> int:
        """The number of the run's process."""
        return self._process.pid

    @property
    def log(self) -> tuple[str, ...]:
        """The latest lines that the run has printed."""
        return tuple(self._log)

    def progress(self) -> Progress:
        """How the run stands, from its output.

        Raises:
            OSError: The storage failed.
        """
        code = self._process.poll()
        # A status of an earlier run may still be there. Both times are of this host's clock.
        status = read_status_file(self._output)
        own = status if status is not None and status.since >= self._started else None
        if code is None:
            return _progress("running" if own is not None else "starting", own)
        self._end_reading()
        if code == REFUSED:
            return _progress("refused", own, code, self._refusal_text())
        if code in (INTERRUPTED, -signal.SIGTERM):
            return _progress("interrupted", own or self._counted(), INTERRUPTED)
        if code not in (0, 1):
            return _progress("died", own, code, f"the run's process ended with status {code}")
        counts = own or self._counted()
        stopped = counts is not None and bool(counts.pending)
        message = own.message if stopped and own is not None else ""
        return _progress("stopped" if stopped else "finished", counts, code, message)

    def wait(self, timeout: float | None = None) -> Progress:
        """Wait until the run has ended. In a notebook, a bar shows its progress meanwhile.

        An interrupt (Ctrl-C, a notebook's stop button) ends the waiting; the run goes on, see `cancel`.

        Args:
            timeout: Seconds to wait; by default without limit.

        Raises:
            TimeoutError: The run goes on.
            Refused: The run was refused.
            OSError: The storage failed when the run had ended.
        """
        until = None if timeout is None else time.monotonic() + timeout
        picture = notebook.show_picture(self)
        while self._process.poll() is None:
            left = _REFRESH_SECONDS if until is None else until - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"the run goes on after {timeout:g} s; wait again, or cancel it")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(min(left, _REFRESH_SECONDS))
            if picture is not None:
                picture.update(self)
        self._end_reading()
        self._raise_refusal()
        return self.progress()

    def cancel(self, grace: float | None = None) -> Progress:
        """End the run, as after a SIGTERM, and wait for it; what is finished is kept.

        Args:
            grace: Seconds that rows which are being rendered have to finish; by default the run's
                `faults.grace`. When they are over, the run stops at once.
        """
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        if grace is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(grace)
            if self._process.poll() is None:
                # After a SIGTERM, this asks it to stop at once.
                self._process.send_signal(signal.SIGINT)
        self._process.wait()
        return self.progress()

    def results(self) -> pa.Table:
        """What became of each row that was tried, in this run or before: the ledger's columns, by time.

        Raises:
            Refused: The run was refused.
            OSError: The storage failed.
        """
        from vidgen_dist.ledger import latest

        if self._process.poll() is not None:
            self._end_reading()
            self._raise_refusal()
        return latest(self._output)

    def show(self, count: int = 4) -> notebook.Html:
        """Some of the finished videos, for a notebook: the first of the manifest.

        Args:
            count: How many, at most.

        Raises:
            Refused: The manifest cannot be read.
            OSError: The storage failed.
        """
        return notebook.videos(self._output, self.results(), count)

    def __repr__(self) -> str:
        return f"<run into {redact(self.output)}: {notebook.in_words(self._shown())}>"

    def _repr_html_(self) -> str:
        return notebook.bar(self.output, self._shown())

    def _shown(self) -> Progress:
        """How the run stands, or how it stood when the storage last answered."""
        try:
            self._latest = self.progress()
        except OSError as error:
            return dataclasses.replace(self._latest, message=f"the output cannot be read: {error}")
        return self._latest

    def _read(self, lines: IO[str]) -> None:
        for line in lines:
            text = line.rstrip("\n")
            if text.startswith(REFUSAL):
                self._refusal, text = [], text.removeprefix(REFUSAL)
            if self._refusal is not None:
                self._refusal.append(text)
            self._log.append(text)
        self._process.wait()
        self._folder.cleanup()

    def _end_reading(self) -> None:
        # A process that the run has left behind may hold the pipe open.
        self._reader.join(_LOG_SECONDS)

    def _refusal_text(self) -> str:
        # An error of the command line itself has no mark.
        return "\n".join(self._log if self._refusal is None else self._refusal)

    def _raise_refusal(self) -> None:
        if self._process.returncode == REFUSED:
            raise Refused(self._refusal_text())

    def _counted(self) -> RunStatus | None:
        """The counts that an earlier run has left, of a run that had nothing to report."""
        status = read_status_file(self._output)
        return status if status is not None and status.state != "running" else None


def _progress(
    state: State, status: RunStatus | None, exit_status: int | None = None, message: str = ""
) -> Progress:
    if status is None:
        return Progress(state, exit_status=exit_status, message=message)
    at_work = exit_status is None
    return Progress(
        state=state,
        total=status.total,
        done=status.done,
        failed=status.failed,
        pending=status.pending,
        videos_per_minute=status.videos_per_minute,
        seconds_left=status.seconds_left if at_work else None,
        exit_status=exit_status,
        message=message,
    )
