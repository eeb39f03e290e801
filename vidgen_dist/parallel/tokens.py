"""Where a model's tokens lie: every stream (text, video, …) divided evenly over the ranks of a sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vidgen_dist import nn
from vidgen_dist.parallel.collectives import Group
from vidgen_dist.parallel.mesh import bounds, shares


@dataclass(frozen=True)
class TokenSplit:
    """How the tokens of some streams lie on the ranks of a group.

    Each stream is divided by itself, so that every rank has its part of each kind of token, and none is held
    twice. For joint attention the order of keys does not matter, so no stream is put together for it.

    Args:
        group: The ranks (`Mesh.sequence`).
        sizes: Of each stream, by name: tokens of every rank.
    """

    group: Group
    sizes: dict[str, tuple[int, ...]]

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of every rank, all streams together."""
        return tuple(sum(of_rank) for of_rank in zip(*self.sizes.values(), strict=True))

    def own(self, x: nn.Tensor, stream: str, axis: int = 1) -> nn.Tensor:
        """This rank's part of what is there for every token of a stream along an axis."""
        if self.group.size == 1:
            return x
        return x[(*(slice(None),) * axis, bounds(self.sizes[stream], self.group.index))]

    def gather(self, x: nn.Tensor, stream: str) -> nn.Tensor:
        """Every rank's part (B, n, ...) of a stream as the whole stream (B, N, ...)."""
        if self.group.size == 1:
            return x
        batch = x.shape[0]
        tokens_first = nn.cat([x[i] for i in range(batch)], -1) if batch > 1 else x[0]
        whole = self.group.all_gather(tokens_first, self.sizes[stream], what="tokens").wait()
        return nn.stack(nn.chunk(whole, batch, -1), 0) if batch > 1 else whole[None]


def split_tokens(group: Group, **streams: int) -> TokenSplit:
    """Divide streams over a group.

    Args:
        group: The ranks.
        streams: Tokens of each stream.
    """
    sizes: dict[str, tuple[int, ...]] = {}
    first = 0
    for name, tokens in streams.items():
        even = shares(tokens, group.size)
        # What is left over of one stream goes to the ranks that have less of the others.
        sizes[name] = tuple(even[(rank - first) % group.size] for rank in range(group.size))
        first += tokens % group.size
    return TokenSplit(group, sizes)


def part_bounds(sizes: Sequence[int]) -> list[slice]:
    """Where each part lies, when parts of those sizes follow one another."""
    return [bounds(sizes, index) for index in range(len(sizes))]
