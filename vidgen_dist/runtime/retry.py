"""Asking a storage again when it refuses."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import TypeVar

from vidgen_dist.runtime.notes import Note, Notes, ignore
from vidgen_dist.storage import is_full

T = TypeVar("T")

ATTEMPTS = 5
FIRST_DELAY = 0.5
"""Seconds before the second attempt; each later one waits twice as long."""


def with_retries(call: Callable[[], T], *, hurry: threading.Event, note: Notes = ignore) -> T:
    """Call until it does not raise OSError, `ATTEMPTS` times at most, waiting longer each time.

    Args:
        call: Something that may be called again after it failed.
        hurry: Once set there is no time left: the attempt under way is the last.
        note: Takes a note of each attempt but the last that fails.

    Raises:
        OSError: What the last attempt raised; FileNotFoundError, a full disk and the like at once, for
            they stay so.
    """
    for attempt in range(ATTEMPTS):
        try:
            return call()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise
        except OSError as error:
            if is_full(error):
                raise
            # Workers that were refused together should not come back together.
            delay = FIRST_DELAY * 2**attempt * random.uniform(0.75, 1.25)
            if attempt == ATTEMPTS - 1:
                raise
            note(Note("retried", error=type(error).__name__, message=str(error)))
            if hurry.wait(delay):
                raise
    raise AssertionError("unreachable")
