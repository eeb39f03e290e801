"""How a gang divides its work. Without MindSpore, because the planner uses it too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vidgen_dist.errors import Refused


@dataclass(frozen=True)
class Degrees:
    """How a gang divides the work of one video.

    Args:
        ulysses: Ranks that share a sample's attention heads, or its frames (all-to-all).
        ring: Ranks among which keys and values are passed around.
        cfg: 2 if each half of guidance has ranks of its own, otherwise 1.

    Raises:
        Refused: A degree below 1, or another `cfg`.
    """

    ulysses: int = 1
    ring: int = 1
    cfg: int = 1

    def __post_init__(self) -> None:
        for name in ("ulysses", "ring"):
            if getattr(self, name) < 1:
                raise Refused(f"{name}: {getattr(self, name)} is not allowed; 1 or more")
        if self.cfg not in (1, 2):
            raise Refused(f"cfg: {self.cfg} is not allowed; 1 or 2: guidance has two halves")

    @property
    def size(self) -> int:
        """Number of ranks in the gang."""
        return self.ulysses * self.ring * self.cfg


def shares(total: int, parts: int) -> tuple[int, ...]:
    """Divide `total` things as evenly as possible; the first parts have one more."""
    each, more = divmod(total, parts)
    return tuple(each + (part < more) for part in range(parts))


def bounds(sizes: Sequence[int], index: int) -> slice:
    """Where the part with this index lies, if parts of these sizes follow one another."""
    start = sum(sizes[:index])
    return slice(start, start + sizes[index])
