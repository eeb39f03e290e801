"""How the CPU bodies share out their work: jobs over the compute threads, scratch memory a thread."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from mindspore import mint

Array = np.ndarray[Any, Any]


_pool: ThreadPoolExecutor | None = None
_threads = 1


def set_threads(threads: int) -> None:
    """Compute with so many threads, the calling one among them."""
    global _pool, _threads
    _threads = threads
    _pool = ThreadPoolExecutor(threads - 1, thread_name_prefix="nn-cpu") if threads > 1 else None


def each(jobs: Iterable[Any], body: Callable[[Any], Any]) -> None:
    """Run body on every job, over the compute threads; an exception ends the rest and is raised."""
    listed = list(jobs)
    workers = min(_threads, len(listed))
    if _pool is None or workers < 2:
        for job in listed:
            body(job)
        return
    # One task a thread, each taking the next job from a shared iterator: a future a job costs more
    # than a small job does.
    queue = iter(listed)

    def work() -> None:
        for job in queue:
            body(job)

    helpers = [_pool.submit(work) for _ in range(workers - 1)]
    try:
        work()
    finally:
        for _ in queue:  # after a failure here, leave nothing to the others
            pass
        done = [helper.exception() for helper in helpers]
    for failure in done:
        if failure is not None:
            raise failure


def slices(length: int, step: int) -> list[slice]:
    return [slice(i, min(i + step, length)) for i in range(0, length, step)]


def empty(shape: Sequence[int]) -> Array:
    """A float32 array for a result, from MindSpore's memory pool.

    The pool hands freed blocks out again as they are; NumPy's large arrays come from the kernel,
    zeroed anew every time.
    """
    return mint.empty(tuple(shape)).asnumpy()


_local = threading.local()


def scratch(name: str, shape: tuple[int, ...]) -> Array:
    """This thread's buffer of that name, grown to shape; it holds what the last user left."""
    needed = math.prod(shape)
    buffer = getattr(_local, name, None)
    if buffer is None or buffer.size < needed:
        buffer = np.zeros(needed, np.float32)
        setattr(_local, name, buffer)
    return buffer[:needed].reshape(shape)
