"""How often something is tried, and how long is waited in between."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class RetryPolicy:
    """Attempts, and the delays between them; by default those of `retries.with_retries`.

    Args:
        attempts: Attempts in all. Five of them, with the delay below, outlast a storage that is away for
            seven seconds, and what each attempt waits for by itself comes on top (`failures.PATIENCE`).
        first_delay: Seconds before the second attempt; each later one waits twice as long.
    """

    attempts: int = 5
    first_delay: float = 0.5

    def delays(self, attempts: int | None = None) -> Iterator[float]:
        """Seconds to wait before each attempt after the first.

        Args:
            attempts: How many there are in all, where that is not the policy's to say.
        """
        for attempt in range((self.attempts if attempts is None else attempts) - 1):
            # Workers that were refused together should not come back together.
            yield self.first_delay * 2**attempt * random.uniform(0.75, 1.25)
