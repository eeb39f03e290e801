"""Ctrl-C asks a run to end, a second one to stop at once; SIGTERM does the same, at once when its grace ends.

A terminal that hangs up (SIGHUP) only asks the run to end, however often the signal comes: nobody is there to
press Ctrl-C again. Under `nohup`, which ignores the signal, it has no effect.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from types import FrameType
from typing import Any


class Interrupts:
    """Counts the signals that ask a run to end, while the block lasts.

    Before `count_only` a signal raises KeyboardInterrupt, because there is nothing to finish yet. After it,
    `level` says what to do: 0 nothing, 1 finish the rows that are being rendered, 2 stop at once. Outside the
    main thread no signal arrives, and the level stays 0.

    Args:
        grace: Seconds from a SIGTERM until rows that are being rendered are given up.

    Attributes:
        preempted: Whether a SIGTERM came: the machine may soon be gone.
    """

    def __init__(self, grace: float = math.inf) -> None:
        self.preempted = False
        self._grace = grace
        self._until = math.inf
        self._level = 0
        self._counts_only = False
        self._before: dict[int, Any] = {}

    @property
    def level(self) -> int:
        return 2 if time.monotonic() > self._until else self._level

    def stop(self) -> None:
        """Ask the run to stop at once."""
        self._level = 2

    def count_only(self) -> None:
        """From now on, let signals only be counted."""
        self._counts_only = True

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            handled = [signal.SIGINT, signal.SIGTERM]
            if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
                handled.append(signal.SIGHUP)
            for number in handled:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if not self._counts_only:
            raise KeyboardInterrupt
        if number == signal.SIGTERM:
            # A second one means no more than the first: schedulers repeat it.
            self._level = max(self._level, 1)
            if not self.preempted:
                self.preempted = True
                self._until = time.monotonic() + self._grace
        elif number == signal.SIGHUP:
            self._level = max(self._level, 1)
        else:
            self._level = min(self._level + 1, 2)
