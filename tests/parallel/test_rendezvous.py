"""Rendezvous: processes become gangs."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from vidgen_dist import nn
from vidgen_dist.parallel.collectives import PeerLost
from vidgen_dist.parallel.degrees import Degrees
from vidgen_dist.parallel.mesh import Mesh
from vidgen_dist.parallel.rendezvous import Rendezvous, open_rendezvous

LOCAL = "127.0.0.1"
PATIENCE = 60.0


def join(places: Sequence[Rendezvous], degrees: Degrees) -> list[Mesh]:
    """The meshes of all ranks; threads join as processes would."""
    addresses = [place.address for place in places]
    with ThreadPoolExecutor(len(places)) as pool:
        return list(
            pool.map(lambda rank: places[rank].join(addresses, rank, degrees, PATIENCE), range(len(places)))
        )


def gathered(meshes: Sequence[Mesh], values: Sequence[float]) -> list[list[float]]:
    """What each rank has after all have gathered the values, one from each."""
    pieces = [nn.from_numpy(np.full((1,), value, np.float32)) for value in values]
    pending = [
        mesh.gang.all_gather(piece, [1] * mesh.size, what="test")
        for mesh, piece in zip(meshes, pieces, strict=True)
    ]
    return [nn.to_numpy(p.wait()).tolist() for p in pending]


def test_two_gangs_on_a_host_do_not_meet() -> None:
    places = [open_rendezvous("cpu", LOCAL) for _ in range(5)]
    assert len({place.address for place in places}) == 5
    # The maker of the gangs orders the ranks, not the time at which each opened its rendezvous.
    one = join([places[3], places[0]], Degrees(2))
    other = join([places[4], places[1], places[2]], Degrees(ring=3))
    assert gathered(other, (7, 8, 9)) == [[7, 8, 9]] * 3
    assert gathered(one, (5, 6)) == [[5, 6]] * 2
    for mesh in one:
        mesh.close()
    assert gathered(other, (1, 2, 3)) == [[1, 2, 3]] * 3
    for mesh in other:
        mesh.close()


def test_degrees_make_the_groups() -> None:
    meshes = join([open_rendezvous("cpu", LOCAL) for _ in range(4)], Degrees(ulysses=2, cfg=2))
    assert [mesh.rank for mesh in meshes] == [0, 1, 2, 3]
    assert [mesh.ulysses.ranks for mesh in meshes] == [(0, 1), (0, 1), (2, 3), (2, 3)]
    assert [mesh.cfg.ranks for mesh in meshes] == [(0, 2), (1, 3), (0, 2), (1, 3)]
    for mesh in meshes:
        mesh.close()


def test_a_gang_of_one() -> None:
    (mesh,) = join([open_rendezvous("cpu", LOCAL)], Degrees())
    assert gathered([mesh], [4]) == [[4]]
    mesh.close()


def test_who_does_not_come_is_lost() -> None:
    places = [open_rendezvous("cpu", LOCAL) for _ in range(2)]
    with pytest.raises(PeerLost, match=r"^rank 0: no connection to rank 1 \("):
        places[0].join([place.address for place in places], 0, Degrees(2), 0.2)
