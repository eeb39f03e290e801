"""How work is divided on the CPU: jobs run on the compute threads, each of which has scratch memory."""

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
    """Compute with this many threads, the calling thread among them."""
    global _pool, _threads
    _threads = threads
    _pool = ThreadPoolExecutor(threads - 1, thread_name_prefix="nn-cpu") if threads > 1 else None


def each(jobs: Iterable[Any], body: Callable[[Any], Any]) -> None:
    """Run body on every job, on the compute threads; an exception stops the rest and is raised."""
    listed = list(jobs)
    workers = min(_threads, len(listed))
    if _pool is None or workers < 2:
        for job in listed:
            body(job)
        return
    # One task per thread; each takes the next job from a shared iterator. One future per job costs more than
    # a small job does.
    queue = iter(listed)

    def work() -> None:
        for job in queue:
            body(job)

    helpers = [_pool.submit(work) for _ in range(workers - 1)]
    try:
        work()
    finally:
        for _ in queue:  # after a failure in this thread, leave no jobs to the others
            pass
        done = [helper.exception() for helper in helpers]
    for failure in done:
        if failure is not None:
            raise failure


def slices(length: int, step: int) -> list[slice]:
    return [slice(i, min(i + step, length)) for i in range(0, length, step)]


def blocks(shape: Sequence[int], size: int) -> list[tuple[int | slice, ...]]:
    """Indices that cut an array of this shape into blocks of about `size` numbers.

    A block is one place of leading axes, a run along the next one, and all of the rest.
    """
    if not shape:
        return [()]
    rest = math.prod(shape[1:])
    if rest <= size or len(shape) == 1:
        return [(rows,) for rows in slices(shape[0], max(1, size // max(1, rest)))]
    return [(i, *inner) for i in range(shape[0]) for inner in blocks(shape[1:], size)]


def empty(shape: Sequence[int]) -> Array:
    """A float32 array for a result, from MindSpore's memory pool.

    The pool reuses freed blocks as they are; NumPy gets large arrays from the kernel, which zeroes them every
    time.
    """
    return mint.empty(tuple(shape)).asnumpy()


_local = threading.local()


def scratch(name: str, shape: tuple[int, ...]) -> Array:
    """This thread's buffer of that name, large enough for the shape; it holds what its last use left."""
    needed = math.prod(shape)
    buffer = getattr(_local, name, None)
    if buffer is None or buffer.size < needed:
        buffer = np.zeros(needed, np.float32)
        setattr(_local, name, buffer)
    return buffer[:needed].reshape(shape)
