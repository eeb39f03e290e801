"""Calls that are tried again, after longer and longer delays."""

from __future__ import annotations

import errno
import random
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from vidgen_dist.storage.failures import is_full
from vidgen_dist.worker_events import OnWorkerEvent, WorkerEvent, ignore_event

T = TypeVar("T")

ATTEMPTS = 5
FIRST_DELAY = 0.5
"""Seconds before the second attempt; each later one waits twice as long."""

# What disks alone answer; credentials of object stores may be renewed meanwhile.
_PERMANENT = (errno.EROFS, errno.EPERM)


def delays(attempts: int) -> Iterator[float]:
    """Seconds to wait before each attempt after the first, each twice as long."""
    for attempt in range(attempts - 1):
        # Workers that were refused together should not come back together.
        yield FIRST_DELAY * 2**attempt * random.uniform(0.75, 1.25)


def with_retries(
    call: Callable[[], T], *, hurry: threading.Event, on_event: OnWorkerEvent = ignore_event
) -> T:
    """Call until it does not raise OSError, `ATTEMPTS` times at most, waiting longer each time.

    Args:
        call: Something that may be called again after it failed.
        hurry: Once set there is no time left: the attempt under way is the last.
        note: Takes a note of each attempt but the last that fails.

    Raises:
        OSError: What the last attempt raised; FileNotFoundError, a full disk and the like at once, for
            they stay so.
    """
    for delay in delays(ATTEMPTS):
        try:
            return call()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise
        except OSError as error:
            if is_full(error) or error.errno in _PERMANENT:
                raise
            on_event(WorkerEvent("retried", error=type(error).__name__, message=str(error)))
            if hurry.wait(delay):
                raise
    return call()
