"""Standard output and standard error whose failures do not end the program.

If the reader of a pipe goes away, a terminal hangs up, a disk is full or a descriptor was closed before the
start, only what is printed is lost. Python, rich, typer and logging would raise, each at a different place,
so the streams themselves are replaced.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import Any, TextIO

STALL_SECONDS = 2.0
"""How long a reader that does not read may delay a program that does not wait for it."""

_CHUNK = select.PIPE_BUF
"""Bytes that a pipe takes at once if it is ready for writing."""


class Sink(io.RawIOBase):
    """Writes to a descriptor and never raises.

    Args:
        descriptor: The descriptor; it is not closed.
        stall_seconds: See `STALL_SECONDS`.

    Attributes:
        fault: The first error by which output was lost; None if none was.
        waits: Whether to wait for a reader that does not read, however long.
    """

    def __init__(self, descriptor: int, stall_seconds: float = STALL_SECONDS) -> None:
        self.fault: OSError | None = None
        self.waits = True
        self._descriptor = descriptor
        self._stall_seconds = self._patience = stall_seconds
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
                # The descriptor is non-blocking, and another writer was faster.
                continue

    def _is_ready(self) -> bool:
        ready = bool(self._ready.poll(None if self.waits else 1000 * self._patience))
        # After one wait in vain, it is only checked.
        self._patience = self._stall_seconds if ready else 0.0
        return ready


def guard(*, in_any_case: bool = False) -> None:
    """Replace `sys.stdout` and `sys.stderr`, and open `/dev/null` for each closed standard descriptor.

    Otherwise the next opened file, such as a ledger part, would get that number, and receive what C libraries
    print.

    Args:
        in_any_case: Replace streams even if somebody has already replaced them.
    """
    for descriptor in (0, 1, 2):
        _fill(descriptor)
    if in_any_case or sys.stdout is sys.__stdout__:
        sys.stdout = _guarded(sys.stdout, 1)
    if in_any_case or sys.stderr is sys.__stderr__:
        sys.stderr = _guarded(sys.stderr, 2)


def never_wait() -> None:
    """From now on, output that would have to wait long is lost, and `fault_of_output` ignores it."""
    for sink in (sink_of(sys.stdout), sink_of(sys.stderr)):
        if sink is not None:
            sink.waits = False


def fault_of_output() -> OSError | None:
    """Why a part of a command's printed result was lost; None if its reader only went away."""
    sink = sink_of(sys.stdout)
    if sink is None or not sink.waits:
        return None
    sys.stdout.flush()
    return None if isinstance(sink.fault, BrokenPipeError) else sink.fault


def output_is_lost() -> bool:
    """Whether standard output cannot be written any more, for example because its reader is gone."""
    sink = sink_of(sys.stdout)
    sys.stdout.flush()
    return sink is not None and sink.fault is not None


def sink_of(stream: TextIO) -> Sink | None:
    """The sink of a stream, if `guard` made the stream."""
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
    # Python has no stream for a descriptor that was closed at the start; its number may be another file's
    # now.
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")
    return io.TextIOWrapper(
        io.BufferedWriter(Sink(descriptor)),
        encoding=stream.encoding,
        # A prompt that the terminal's encoding cannot show must not end the program either.
        errors="backslashreplace" if stream.errors == "strict" else stream.errors,
        # Under PYTHONUNBUFFERED, which Ray sets for jobs, what is written through stays in our own buffer.
        line_buffering=bool(stream.line_buffering or getattr(stream, "write_through", False)),
        write_through=getattr(stream, "write_through", False),
    )
