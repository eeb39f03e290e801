"""Where a model's tokens lie: every stream (text, video, …) divided evenly over the ranks of a sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vidgen_dist import nn
from vidgen_dist.parallel.degrees import bounds, shares
from vidgen_dist.parallel.mesh import Mesh


@dataclass(frozen=True)
class TokenSplit:
    """How the tokens of some streams lie on the ranks of a group.

    Each stream is divided by itself, so that every rank has its part of each kind of token, and none is held
    twice. For joint attention the order of keys does not matter, so no stream is put together for it.

    Args:
        mesh: The gang; `mesh.sequence` are the ranks that share the tokens.
        sizes: Of each stream, by name: tokens of every one of those ranks.
    """

    mesh: Mesh
    sizes: dict[str, tuple[int, ...]]

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of every rank, all streams together."""
        return tuple(sum(of_rank) for of_rank in zip(*self.sizes.values(), strict=True))

    def at(self, stream: str) -> slice:
        """Where this rank's tokens of a stream lie in it."""
        return bounds(self.sizes[stream], self.mesh.sequence.index)

    def take(self, x: nn.Tensor, stream: str) -> nn.Tensor:
        """This rank's part (B, n, ...) of a stream (B, N, ...)."""
        return x if self.mesh.sequence.size == 1 else x[:, self.at(stream)]

    def gather(self, x: nn.Tensor, stream: str) -> nn.Tensor:
        """Every rank's part (B, n, ...) of a stream as the whole stream (B, N, ...)."""
        group = self.mesh.sequence
        if group.size == 1:
            return x
        batch = x.shape[0]
        tokens_first = nn.cat([x[i] for i in range(batch)], -1) if batch > 1 else x[0]
        whole = group.all_gather(tokens_first, self.sizes[stream], what="tokens").wait()
        return nn.stack(nn.chunk(whole, batch, -1), 0) if batch > 1 else whole[None]


def split_tokens(mesh: Mesh, **streams: int) -> TokenSplit:
    """Divide streams over the ranks that share a sample's tokens.

    Args:
        mesh: The gang.
        streams: Tokens of each stream.
    """
    ranks = mesh.sequence.size
    sizes: dict[str, tuple[int, ...]] = {}
    first = 0
    for name, tokens in streams.items():
        even = shares(tokens, ranks)
        # What is left over of one stream goes to the ranks that have less of the others.
        sizes[name] = tuple(even[(rank - first) % ranks] for rank in range(ranks))
        first += tokens % ranks
    return TokenSplit(mesh, sizes)


def part_bounds(sizes: Sequence[int]) -> list[slice]:
    """Where each part lies, when parts of those sizes follow one another."""
    return [bounds(sizes, index) for index in range(len(sizes))]
