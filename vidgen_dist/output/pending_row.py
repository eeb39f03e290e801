"""A row that is still to be rendered, and what is known about it from the output."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vidgen_dist.families.common.rendering import ResumeState
from vidgen_dist.request import ResolvedRequest


@dataclass(frozen=True)
class PendingRow:
    """A manifest row that is to be rendered.

    Args:
        request: With id, seed and every default filled in.
        attempt: 1 for the first with this id and fingerprint, counted over all runs on this output.
        passthrough: Values that are copied to the ledger.
        restart: Whether it begins at step 0 even if an earlier rendering of it was saved.
        state: Where all ranks of a gang begin, sent by their leader; None for step 0.
        maybe_stored: Whether its video may be stored already, by a run or a gang that was killed.
        priority: Rows of a higher one are rendered first.
        invalidated: Whether the ledger marks an earlier video of it as lost: then a stored video is not
            trusted.
    """

    request: ResolvedRequest
    attempt: int = 1
    passthrough: dict[str, Any] = field(default_factory=dict)
    restart: bool = False
    state: ResumeState | None = None
    maybe_stored: bool = False
    invalidated: bool = False
    priority: int = 0

    @property
    def id(self) -> str:
        """The row's id."""
        return self.request.id
