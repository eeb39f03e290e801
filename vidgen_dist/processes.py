"""Processes for work that keeps Python busy."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any


class InlineExecutor(Executor):
    """Runs what is submitted at once, in the caller's thread."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """The result of the call, or what it raised, as a future."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - raised again where the result is asked for
            future.set_exception(error)
        return future


class _Pool(ProcessPoolExecutor):
    """A pool whose processes start without the current folder in their module path.

    Otherwise a `random.py` there would be taken for Python's until they get this process's own path.
    """

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """As in the base class; this is where processes start."""
        before = os.environ.get("PYTHONSAFEPATH")
        os.environ["PYTHONSAFEPATH"] = "1"
        try:
            return super().submit(fn, *args, **kwargs)
        finally:
            if before is None:
                del os.environ["PYTHONSAFEPATH"]
            else:
                os.environ["PYTHONSAFEPATH"] = before


@contextmanager
def open_pool(processes: int) -> Iterator[Executor]:
    """Processes that end with the block, and with this process, however it ends.

    What is submitted must be a module's function. With fewer than two processes it runs in this one.
    """
    if processes < 2:
        yield InlineExecutor()
        return
    # Not forked: this process has threads.
    context = multiprocessing.get_context("spawn")
    pool = _Pool(processes, context, initializer=_initialise_child)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def terminate_at_the_end_of(descriptor: int) -> None:
    """Send this process a SIGTERM when a descriptor of a pipe ends: its other end was closed.

    The system closes it when the process that holds it ends, however it ends.
    """

    def wait() -> None:
        while os.read(descriptor, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="parent", daemon=True).start()


def start_in_process(fn: Any, /, *args: Any) -> Future[Any]:
    """Starts a module's function in a process of its own; its future raises BrokenExecutor if that dies.

    Raises:
        OSError: No process can be started.
    """
    pool = _Pool(1, multiprocessing.get_context("spawn"), initializer=_initialise_child)
    try:
        return pool.submit(fn, *args)
    finally:
        # What was submitted is still done.
        pool.shutdown(wait=False)


def run_in_process(fn: Any, /, *args: Any) -> Any:
    """Runs a module's function in a process of its own; returns or raises what it does.

    Raises:
        BrokenExecutor: The process died.
        OSError: No process can be started.
    """
    return start_in_process(fn, *args).result()


def _initialise_child() -> None:
    # The parent handles Ctrl-C.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
