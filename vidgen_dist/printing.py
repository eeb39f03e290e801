"""Standard output and standard error, whose faults end no program.

The reader of a pipe goes away, a terminal hangs up, a disk is full, a descriptor was closed before the start:
then what is printed is lost, and nothing else. Python, rich, typer and logging raise there, each at another
place, so it is the streams that are replaced.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import Any, TextIO

STALL_SECONDS = 2.0
"""How long a reader that does not read may hold up a program that does not wait for it."""

_CHUNK = select.PIPE_BUF
"""A pipe that is ready for writing takes so many bytes at once."""


class Sink(io.RawIOBase):
    """Writes to a descriptor, whatever becomes of it.

    Args:
        descriptor: It stays open.

    Attributes:
        fault: The first reason why something was lost; None while nothing was.
        waits: Whether a reader that does not read is waited for, however long.
    """

    def __init__(self, descriptor: int) -> None:
        self.fault: OSError | None = None
        self.waits = True
        self._descriptor = descriptor
        self._patience = STALL_SECONDS
        self._ready = select.poll()
        self._ready.register(descriptor, select.POLLOUT)

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        try:
            self._write_all(view)
        except OSError as error:
            self.fault = self.fault or error
        return len(view)

    def _write_all(self, view: memoryview) -> None:
        while view:
            if not self._is_ready():
                raise BlockingIOError(errno.EAGAIN, "its reader does not read")
            try:
                view = view[os.write(self._descriptor, view[:_CHUNK]) :]
            except BlockingIOError:
                # Somebody made the descriptor non-blocking, and another writer was faster.
                continue

    def _is_ready(self) -> bool:
        ready = bool(self._ready.poll(None if self.waits else 1000 * self._patience))
        # Once it has been waited for in vain, it is looked at only.
        self._patience = STALL_SECONDS if ready else 0.0
        return ready


def guard(*, in_any_case: bool = False) -> None:
    """Replace `sys.stdout` and `sys.stderr`, and put `/dev/null` where a standard descriptor is closed.

    Else the next file that is opened, a ledger part say, would get that number, and what C libraries print.

    Args:
        in_any_case: Also streams that somebody has put in their place.
    """
    for descriptor in (0, 1, 2):
        _fill(descriptor)
    if in_any_case or sys.stdout is sys.__stdout__:
        sys.stdout = _guarded(sys.stdout, 1)
    if in_any_case or sys.stderr is sys.__stderr__:
        sys.stderr = _guarded(sys.stderr, 2)


def never_wait() -> None:
    """From here on, what is printed is lost rather than waited for long, and nobody asks whether it was."""
    for sink in (sink_of(sys.stdout), sink_of(sys.stderr)):
        if sink is not None:
            sink.waits = False


def fault_of_output() -> OSError | None:
    """Why something that was printed as a command's result is lost, but for a reader that wants no more."""
    sink = sink_of(sys.stdout)
    if sink is None or not sink.waits:
        return None
    sys.stdout.flush()
    return None if isinstance(sink.fault, BrokenPipeError) else sink.fault


def sink_of(stream: TextIO) -> Sink | None:
    """What a stream writes to, if it is one of `guard`."""
    sink = getattr(getattr(stream, "buffer", None), "raw", None)
    return sink if isinstance(sink, Sink) else None


def _fill(descriptor: int) -> None:
    try:
        os.fstat(descriptor)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        if null != descriptor:
            os.dup2(null, descriptor)
            os.close(null)
        os.set_inheritable(descriptor, True)


def _guarded(stream: TextIO | None, descriptor: int) -> TextIO:
    # Python has no stream for a descriptor that was closed at the start; whatever has the number is not ours.
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")
    return io.TextIOWrapper(
        io.BufferedWriter(Sink(descriptor)),
        encoding=stream.encoding,
        # A prompt that the terminal's encoding lacks is no reason to end either.
        errors="backslashreplace" if stream.errors == "strict" else stream.errors,
        line_buffering=bool(stream.line_buffering),
        write_through=getattr(stream, "write_through", False),
    )
