"""Waits until something is so."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE = 120.0
"""Seconds. As many as no machine needs, however busy it is: who waits this long has found a fault."""

T = TypeVar("T")


def wait_until(look: Callable[[], T], process: subprocess.Popen[str] | None = None, every: float = 0.02) -> T:
    """Look until something is found, and return it.

    Args:
        look: Returns what there is, or something false.
        process: May not end meanwhile.
        every: Seconds between two looks.

    Raises:
        AssertionError: It has not come, or the process has ended.
    """
    end = time.monotonic() + PATIENCE
    while not (found := look()):
        assert time.monotonic() < end
        assert process is None or process.poll() is None, process.communicate()[0]
        time.sleep(every)
    return found
