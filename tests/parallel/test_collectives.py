"""The two collectives over sockets, and the groups of a mesh."""

from __future__ import annotations

import numpy as np
import pytest

from tests.parallel.ranks import Ranks
from vidgen_dist import nn
from vidgen_dist.errors import Refused
from vidgen_dist.parallel.collectives import PeerLost
from vidgen_dist.parallel.degrees import Degrees, bounds, shares
from vidgen_dist.parallel.mesh import Mesh, alone, make_mesh


def numbers(rank: int, peer: int, shape: tuple[int, ...]) -> np.ndarray:
    return (1000 * rank + 100 * peer + np.arange(np.prod(shape))).astype(np.float32).reshape(shape)


def give_and_take(mesh: Mesh) -> tuple[list[np.ndarray], dict[str, int]]:
    # Rank r sends rank p an array of r + p rows; 0 sends itself nothing.
    r = mesh.rank
    pieces = [nn.from_numpy(numbers(r, p, (r + p, 3))) for p in range(mesh.size)]
    shapes = [(p + r, 3) for p in range(mesh.size)]
    taken = mesh.gang.all_to_all(pieces, shapes, what="test").wait()
    return [nn.to_numpy(t) for t in taken], dict(mesh.traffic.sent)


@pytest.mark.parametrize("size", [2, 3])
def test_all_to_all_moves_uneven_pieces(ranks: Ranks, size: int) -> None:
    for r, (taken, sent) in enumerate(ranks.run(give_and_take, degrees=Degrees(size))):
        for p, array in enumerate(taken):
            np.testing.assert_array_equal(array, numbers(p, r, (p + r, 3)))
        assert sent == {"test": sum((r + p) * 3 * 4 for p in range(size) if p != r)}


def gather(mesh: Mesh, lengths: tuple[int, ...]) -> tuple[np.ndarray, dict[str, int]]:
    piece = nn.from_numpy(numbers(mesh.rank, 0, (lengths[mesh.rank], 2, 2)))
    whole = mesh.gang.all_gather(piece, lengths, what="test").wait()
    return nn.to_numpy(whole), dict(mesh.traffic.sent)


@pytest.mark.parametrize("lengths", [(2, 2, 2), (3, 0, 1)])
def test_all_gather_joins_uneven_pieces(ranks: Ranks, lengths: tuple[int, ...]) -> None:
    whole = np.concatenate([numbers(r, 0, (n, 2, 2)) for r, n in enumerate(lengths)])
    for r, (array, sent) in enumerate(ranks.run(gather, lengths, degrees=Degrees(ring=3))):
        np.testing.assert_array_equal(array, whole)
        assert sent == {"test": 2 * lengths[r] * 4 * 4}


def begin_two_wait_backwards(mesh: Mesh) -> list[np.ndarray]:
    group, n = mesh.gang, mesh.size
    pending = [
        group.all_gather(nn.from_numpy(numbers(mesh.rank, k, (2**18,))), [2**18] * n, what="test")
        for k in range(2)
    ]
    return [nn.to_numpy(p.wait())[:: 2**17] for p in reversed(pending)]


def test_collectives_may_be_under_way_together(ranks: Ranks) -> None:
    for second, first in ranks.run(begin_two_wait_backwards, degrees=Degrees(2)):
        for k, array in ((0, first), (1, second)):
            expected = np.concatenate([numbers(r, k, (2**18,)) for r in range(2)])[:: 2**17]
            np.testing.assert_array_equal(array, expected)


def shifted(mesh: Mesh) -> dict[str, float]:
    """In each group every rank sends its number in the gang to the next rank."""
    told = {}
    for name in ("gang", "sequence", "ulysses", "ring", "cfg"):
        group = getattr(mesh, name)
        after, before = (group.index + 1) % group.size, (group.index - 1) % group.size
        nothing = nn.zeros((0,))
        own = nn.from_numpy(np.full((1,), mesh.rank, np.float32))
        pieces = [own if i == after else nothing for i in range(group.size)]
        shapes = [(1,) if i == before else (0,) for i in range(group.size)]
        told[name] = float(nn.to_numpy(group.all_to_all(pieces, shapes, what=name).wait()[before])[0])
    return told


def test_groups_are_neighbours_heads_first_then_ring_then_guidance(ranks: Ranks) -> None:
    told = ranks.run(shifted, degrees=Degrees(ulysses=2, ring=1, cfg=2))
    assert [t["ulysses"] for t in told] == [1, 0, 3, 2]
    assert [t["sequence"] for t in told] == [1, 0, 3, 2]
    assert [t["ring"] for t in told] == [0, 1, 2, 3]
    assert [t["cfg"] for t in told] == [2, 3, 0, 1]
    assert [t["gang"] for t in told] == [3, 0, 1, 2]
    told = ranks.run(shifted, degrees=Degrees(ulysses=2, ring=2))
    assert [t["ulysses"] for t in told] == [1, 0, 3, 2]
    assert [t["ring"] for t in told] == [2, 3, 0, 1]


def first_two(mesh: Mesh) -> tuple[int, ...] | None:
    group = mesh.gang.first(2)
    if group is None:
        return None
    piece = nn.from_numpy(np.full((1,), mesh.rank, np.float32))
    return tuple(int(x) for x in nn.to_numpy(group.all_gather(piece, (1, 1), what="test").wait()))


def test_the_first_ranks_of_a_group_are_a_group(ranks: Ranks) -> None:
    assert ranks.run(first_two, degrees=Degrees(3)) == [(0, 1), (0, 1), None]


def leave_others_alone(mesh: Mesh) -> str:
    if mesh.rank == 1:
        return "left"
    try:
        mesh.gang.all_gather(nn.zeros((4,)), [4] * mesh.size, what="test").wait()
    except PeerLost as error:
        return str(error)
    return "nothing was noticed"


def test_a_rank_that_leaves_is_noticed_at_once(ranks: Ranks) -> None:
    told = ranks.run(leave_others_alone, degrees=Degrees(2), timeout=30)
    assert told[0].startswith("rank 1, as rank 0 sees it: ")


def differ(mesh: Mesh) -> str:
    try:
        shapes = [(2 + mesh.rank,)] * 2
        mesh.gang.all_to_all([nn.zeros((2,))] * 2, shapes, what="test").wait()
    except PeerLost as error:
        return str(error)
    return "fine"


def test_ranks_at_different_places_are_told_apart(ranks: Ranks) -> None:
    told = ranks.run(differ, degrees=Degrees(2))
    assert "sent message 0 of 8 bytes instead of message 0 of 12" in told[1]


def test_one_rank_keeps_its_pieces() -> None:
    mesh = alone()
    x = nn.ones((2, 3))
    assert mesh.gang.all_to_all([x], [(2, 3)], what="test").wait()[0] is x
    assert mesh.gang.all_gather(x, [2], what="test").wait() is x
    assert not mesh.traffic.sent
    assert (mesh.rank, mesh.size) == (0, 1)


def test_shares_are_even_and_in_order() -> None:
    assert shares(10, 4) == (3, 3, 2, 2)
    assert shares(2, 3) == (1, 1, 0)
    assert [bounds((3, 3, 2), i) for i in range(3)] == [slice(0, 3), slice(3, 6), slice(6, 8)]


@pytest.mark.parametrize(("degrees", "said"), [({"ulysses": 0}, "ulysses: 0"), ({"cfg": 3}, "cfg: 3")])
def test_degrees_that_cannot_be(degrees: dict[str, int], said: str) -> None:
    with pytest.raises(Refused, match=said):
        Degrees(**degrees)


def test_every_rank_is_in_one_group_of_each_kind() -> None:
    degrees = Degrees(ulysses=3, ring=2, cfg=2)
    meshes = [make_mesh(None, rank, degrees) for rank in range(degrees.size)]  # type: ignore[arg-type]
    for name, size in (("ulysses", 3), ("ring", 2), ("cfg", 2), ("sequence", 6), ("gang", 12)):
        groups = {getattr(mesh, name).ranks for mesh in meshes}
        assert sorted(rank for group in groups for rank in group) == list(range(12))
        assert {len(group) for group in groups} == {size}
        for mesh in meshes:
            group = getattr(mesh, name)
            assert group.ranks[group.index] == mesh.rank


def count_exchanges(mesh: Mesh) -> dict[tuple[int, ...], int]:
    one = nn.from_numpy(np.ones(1, np.float32))
    mesh.gang.all_gather(one, [1] * 3, what="test").wait()
    mesh.traffic.clear()
    mesh.gang.all_to_all([one] * 3, [(1,)] * 3, what="test").wait()
    first = mesh.gang.first(2)
    if first is not None:
        first.all_gather(one, [1] * 2, what="test").wait()
    return dict(mesh.traffic.issued)


def test_exchanges_are_counted_by_group(ranks: Ranks) -> None:
    counts = ranks.run(count_exchanges, degrees=Degrees(3))
    assert counts == [{(0, 1, 2): 2, (0, 1): 1}, {(0, 1, 2): 2, (0, 1): 1}, {(0, 1, 2): 2}]


def rehearse(mesh: Mesh) -> dict[tuple[int, ...], int]:
    mesh.rehearse()
    return dict(mesh.traffic.issued)


def test_a_rehearsal_reaches_every_group_once(ranks: Ranks) -> None:
    counts = ranks.run(rehearse, degrees=Degrees(ulysses=2, cfg=2))
    gang = (0, 1, 2, 3)
    assert [set(issued) for issued in counts] == [
        {gang, (0, 1), (0, 2)},
        {gang, (0, 1), (1, 3)},
        {gang, (2, 3), (0, 2)},
        {gang, (2, 3), (1, 3)},
    ]
    assert all(count == 1 for issued in counts for count in issued.values())
    assert rehearse(alone()) == {}
