"""The mesh: who a rank is in its gang, and with whom it shares which work. A value, handed down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from vidgen_dist.parallel.collectives import Group, PeerLost, Traffic, Transport
from vidgen_dist.parallel.degrees import Degrees


@dataclass(frozen=True)
class Mesh:
    """One rank's view of its gang.

    Ranks are numbered (cfg, ring, ulysses), the last running fastest: the ranks that exchange most are
    neighbours.

    Args:
        gang: All ranks.
        sequence: Those that share a sample's tokens, `ulysses` times `ring` of them.
        ulysses: Those that share its attention heads.
        ring: Those around which its keys and values travel.
        cfg: Those that have the same part of the tokens, one for each half of guidance.
        transport: What carries their exchanges.
    """

    gang: Group = field(default_factory=Group)
    sequence: Group = field(default_factory=Group)
    ulysses: Group = field(default_factory=Group)
    ring: Group = field(default_factory=Group)
    cfg: Group = field(default_factory=Group)
    transport: Transport | None = None

    @property
    def rank(self) -> int:
        """This rank's number in the gang."""
        return self.gang.index

    @property
    def size(self) -> int:
        """Ranks of the gang."""
        return self.gang.size

    @property
    def traffic(self) -> Traffic:
        """What this rank has sent."""
        return self.gang.traffic

    def rehearse(self) -> None:
        """Exchange a number in every group; all ranks call this together.

        Groups of HCCL are made at their first exchange: what keeps them from it is to show before a model is
        loaded, and not in the first row.

        Raises:
            PeerLost: A rank is gone, or cannot be reached.
        """
        # This module is read by those that must not load MindSpore yet.
        from vidgen_dist import nn

        one = nn.from_numpy(np.ones(1, np.float32))
        groups = (self.gang, self.sequence, self.ulysses, self.ring, self.cfg)
        for group in {group.ranks: group for group in groups if group.size > 1}.values():
            told = group.all_gather(one, [1] * group.size, what="rehearsal").wait()
            # Also of a device, which works on while the host goes on.
            if nn.to_numpy(told).sum() != group.size:
                raise PeerLost(f"rank {self.rank}: a rehearsal among {group.ranks} gave {told}")

    def close(self) -> None:
        """Leave the gang."""
        if self.transport is not None:
            self.transport.close()


def alone() -> Mesh:
    """The mesh of a gang of one."""
    return Mesh()


def make_mesh(transport: Transport, rank: int, degrees: Degrees) -> Mesh:
    """The mesh of one rank of a gang.

    Args:
        transport: Connects all ranks.
        rank: This one's number.
        degrees: Of the gang.
    """
    traffic = Traffic()
    row = degrees.ulysses
    plane = row * degrees.ring

    def group(ranks: Sequence[int]) -> Group:
        ranks = tuple(ranks)
        return Group(ranks, ranks.index(rank), transport if len(ranks) > 1 else None, traffic)

    first_of_plane = rank // plane * plane
    first_of_row = rank // row * row
    return Mesh(
        gang=group(range(degrees.size)),
        sequence=group(range(first_of_plane, first_of_plane + plane)),
        ulysses=group(range(first_of_row, first_of_row + row)),
        ring=group(range(first_of_plane + rank % row, first_of_plane + plane, row)),
        cfg=group(range(rank % plane, degrees.size, plane)),
        transport=transport,
    )
