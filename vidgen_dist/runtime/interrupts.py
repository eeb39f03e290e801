"""Ctrl-C and SIGTERM: a wish first, an order the second time."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Interrupts:
    """Counts the signals that ask a run to end, while the block lasts.

    In front of `soften` a signal raises KeyboardInterrupt, for there is nothing to finish yet. After it,
    `level` says what is wanted: 0 nothing, 1 finish what is being rendered, 2 stop at once. Outside the
    main thread no signal arrives, and the level stays 0.
    """

    def __init__(self) -> None:
        self.level = 0
        self._soft = False
        self._before: dict[int, Any] = {}

    def soften(self) -> None:
        """From here on only count."""
        self._soft = True

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._arrived)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _arrived(self, number: int, _frame: FrameType | None) -> None:
        if not self._soft:
            raise KeyboardInterrupt
        # A second SIGTERM says no more than the first: schedulers repeat it.
        self.level = max(self.level, 1) if number == signal.SIGTERM else min(self.level + 1, 2)
