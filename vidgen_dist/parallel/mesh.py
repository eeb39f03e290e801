"""The mesh: a rank's place in its gang, and the groups with which it shares work. A plain value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from vidgen_dist.parallel.collectives import Group, PeerLost, Traffic, Transport
from vidgen_dist.parallel.degrees import Degrees


@dataclass(frozen=True)
class Mesh:
    """One rank's view of its gang.

    Ranks are numbered (cfg, ring, ulysses), where ulysses varies fastest: the ranks that exchange most are
    neighbours.

    Args:
        gang: All ranks.
        sequence: The ranks that share a sample's tokens: `ulysses` times `ring`.
        ulysses: The ranks that share a sample's attention heads.
        ring: The ranks among which a sample's keys and values are passed around.
        cfg: The ranks that have the same part of the tokens, one for each half of guidance.
        transport: Carries their exchanges.
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
        """Number of ranks in the gang."""
        return self.gang.size

    @property
    def traffic(self) -> Traffic:
        """What this rank has sent."""
        return self.gang.traffic

    def rehearse(self) -> None:
        """Exchange a number in every group; all ranks call this together.

        HCCL creates a group at its first exchange: a failure to do so must show before a model is loaded, and
        not in the first row.

        Raises:
            PeerLost: A rank has ended, or cannot be reached.
        """
        # Processes that must not load MindSpore yet import this module.
        from vidgen_dist import nn

        one = nn.from_numpy(np.ones(1, np.float32))
        groups = (self.gang, self.sequence, self.ulysses, self.ring, self.cfg)
        for group in {group.ranks: group for group in groups if group.size > 1}.values():
            told = group.all_gather(one, [1] * group.size, what="rehearsal").wait()
            # Reading the value also waits for a device, which works independently of the host.
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
        rank: This process's rank.
        degrees: How the gang divides its work.
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
