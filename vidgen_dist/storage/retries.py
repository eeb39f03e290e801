"""Repeating failed calls, after longer and longer delays."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from typing import TypeVar

from vidgen_dist.storage.failures import is_full
from vidgen_dist.storage.retry_policy import RetryPolicy
from vidgen_dist.worker_events import OnWorkerEvent, WorkerEvent, ignore_event

T = TypeVar("T")

# Only disks raise these; credentials of object stores, in contrast, may be renewed meanwhile.
_PERMANENT = (errno.EROFS, errno.EPERM)


def with_retries(
    call: Callable[[], T],
    *,
    hurry: threading.Event,
    on_event: OnWorkerEvent = ignore_event,
    policy: RetryPolicy = RetryPolicy(),
) -> T:
    """Call until it does not raise OSError, a limited number of times, waiting longer each time.

    Args:
        call: A function that may be called again after it failed.
        hurry: Once set there is no time left: the attempt under way is the last.
        on_event: Told of each attempt but the last that fails.
        policy: How often, and how long to wait.

    Raises:
        OSError: What the last attempt raised; FileNotFoundError, a full disk and the like at once, because
            they will not change.
    """
    for delay in policy.delays():
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
