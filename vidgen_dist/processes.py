"""Processes for what keeps Python busy."""

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
    """Does at once, in the caller's thread, what is submitted."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """The result of the call, or what it raised, as a future."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - raised again where the result is asked for
            future.set_exception(error)
        return future


class _Pool(ProcessPoolExecutor):
    """Its processes begin without the current folder among their modules.

    Else a `random.py` there would be taken for Python's, until they learn this process's own path.
    """

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """As its base does; processes are started here."""
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
    """Processes that end with the block, and with this process however that ends.

    What is submitted must be a module's function. With less than two processes it is done in place.
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


def run_in_process(fn: Any, /, *args: Any) -> Any:
    """What a module's function returns or raises, in a process of its own that ends with it.

    Raises:
        BrokenExecutor: The process died.
    """
    context = multiprocessing.get_context("spawn")
    with _Pool(1, context, initializer=_initialise_child) as pool:
        return pool.submit(fn, *args).result()


def _initialise_child() -> None:
    # Ctrl-C is for the parent to heed.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
