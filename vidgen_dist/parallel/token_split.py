"""Token split: every stream of tokens (text, video, …) is divided evenly over the ranks of a sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vidgen_dist import nn
from vidgen_dist.parallel.degrees import bounds, shares
from vidgen_dist.parallel.mesh import Mesh


@dataclass(frozen=True)
class TokenSplit:
    """Which tokens of each stream each rank has.

    Each stream is divided separately, so every rank has a part of each kind of token, and no token is held
    twice. Joint attention does not depend on the order of keys, so it needs no stream gathered.

    Args:
        mesh: The gang; the ranks of `mesh.sequence` share the tokens.
        sizes: Stream -> number of tokens on each of these ranks.
    """

    mesh: Mesh
    sizes: dict[str, tuple[int, ...]]

    @property
    def lengths(self) -> tuple[int, ...]:
        """Number of tokens on each rank, all streams together."""
        return tuple(sum(of_rank) for of_rank in zip(*self.sizes.values(), strict=True))

    def at(self, stream: str) -> slice:
        """Where this rank's tokens lie in a stream."""
        return bounds(self.sizes[stream], self.mesh.sequence.index)

    def take(self, x: nn.Tensor, stream: str) -> nn.Tensor:
        """This rank's part (B, n, ...) of a stream (B, N, ...)."""
        return x if self.mesh.sequence.size == 1 else x[:, self.at(stream)]

    def gather(self, x: nn.Tensor, stream: str) -> nn.Tensor:
        """The whole stream (B, N, ...), from every rank's part (B, n, ...)."""
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
        streams: Stream -> its number of tokens.
    """
    ranks = mesh.sequence.size
    sizes: dict[str, tuple[int, ...]] = {}
    first = 0
    for name, tokens in streams.items():
        even = shares(tokens, ranks)
        # A stream's remainder goes to the ranks that have fewer tokens of the other streams.
        sizes[name] = tuple(even[(rank - first) % ranks] for rank in range(ranks))
        first += tokens % ranks
    return TokenSplit(mesh, sizes)


def part_bounds(sizes: Sequence[int]) -> list[slice]:
    """Where each part lies, if parts of these sizes follow one another."""
    return [bounds(sizes, index) for index in range(len(sizes))]
