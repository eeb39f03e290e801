"""How often to try something, and how long to wait in between."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class RetryPolicy:
    """Attempts, and the delays between them; by default those of `retries.with_retries`.

    Args:
        attempts: Attempts in all. Five, with the delay below, survive seven seconds without the storage, in
            addition to the time that each attempt waits by itself (`failures.PATIENCE`).
        first_delay: Seconds before the second attempt; before each later one, twice as many.
    """

    attempts: int = 5
    first_delay: float = 0.5

    def delays(self, attempts: int | None = None) -> Iterator[float]:
        """Seconds to wait before each attempt after the first.

        Args:
            attempts: How many there are in all, instead of the policy's.
        """
        for attempt in range((self.attempts if attempts is None else attempts) - 1):
            # Workers that failed together should not come back together.
            yield self.first_delay * 2**attempt * random.uniform(0.75, 1.25)
