"""How a gang divides its work. Nothing here knows of MindSpore: plans are made of it, too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vidgen_dist.errors import Refused


@dataclass(frozen=True)
class Degrees:
    """How a gang divides the work of one video.

    Args:
        ulysses: Ranks that share a sample's attention heads, or its frames (all-to-all).
        ring: Ranks around which keys and values travel.
        cfg: 2 where the halves of guidance have ranks of their own, else 1.

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
        """Ranks of the gang."""
        return self.ulysses * self.ring * self.cfg


def shares(total: int, parts: int) -> tuple[int, ...]:
    """`total` things divided as evenly as can be; the first parts have one more."""
    each, more = divmod(total, parts)
    return tuple(each + (part < more) for part in range(parts))


def bounds(sizes: Sequence[int], index: int) -> slice:
    """Where the part of that index lies, when parts of those sizes follow one another."""
    start = sum(sizes[:index])
    return slice(start, start + sizes[index])
