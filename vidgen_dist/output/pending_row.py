"""A row that is still to be rendered, and what the output knows of it."""

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
        attempt: 1 for the first at this id and fingerprint, counted over all runs on this output.
        passthrough: Values that go to the ledger as they are.
        afresh: Whether it begins at step 0, also if an earlier rendering of it was saved.
        state: Where all ranks of a gang begin, told by their leader; None for step 0.
        sought: Whether its video may be there already, of a run or a gang that was killed.
        spoilt: Whether the ledger took back a video of it: then what lies there is not trusted.
    """

    request: ResolvedRequest
    attempt: int = 1
    passthrough: dict[str, Any] = field(default_factory=dict)
    restart: bool = False
    state: ResumeState | None = None
    maybe_stored: bool = False
    invalidated: bool = False

    @property
    def id(self) -> str:
        """The row's identity."""
        return self.request.id
