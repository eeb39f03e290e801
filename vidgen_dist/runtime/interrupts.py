"""Ctrl-C: a wish first, an order the second time. SIGTERM: a wish, and an order when its grace ends.

A terminal that hangs up (SIGHUP) is a wish, however often it is said: nobody is there to give orders. Under
`nohup`, which has it ignored, it is nothing.
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

    In front of `soften` a signal raises KeyboardInterrupt, for there is nothing to finish yet. After it,
    `level` says what is wanted: 0 nothing, 1 finish what is being rendered, 2 stop at once. Outside the
    main thread no signal arrives, and the level stays 0.

    Args:
        grace: Seconds from a SIGTERM until what is being rendered is given up.

    Attributes:
        preempted: Whether a SIGTERM came: soon there will be no time for anything.
    """

    def __init__(self, grace: float = math.inf) -> None:
        self.preempted = False
        self._grace = grace
        self._until = math.inf
        self._level = 0
        self._soft = False
        self._before: dict[int, Any] = {}

    @property
    def level(self) -> int:
        return 2 if time.monotonic() > self._until else self._level

    def stop(self) -> None:
        """What is wanted is to stop at once."""
        self._level = 2

    def soften(self) -> None:
        """From here on only count."""
        self._soft = True

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            heeded = [signal.SIGINT, signal.SIGTERM]
            if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
                heeded.append(signal.SIGHUP)
            for number in heeded:
                self._before[number] = signal.signal(number, self._arrived)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _arrived(self, number: int, _frame: FrameType | None) -> None:
        if not self._soft:
            raise KeyboardInterrupt
        if number == signal.SIGTERM:
            # A second one says no more than the first: schedulers repeat it.
            self._level = max(self._level, 1)
            if not self.preempted:
                self.preempted = True
                self._until = time.monotonic() + self._grace
        elif number == signal.SIGHUP:
            self._level = max(self._level, 1)
        else:
            self._level = min(self._level + 1, 2)
