"""The transport on Ascend, checked against MindSpore's signatures and documentation without an NPU.

Each call that works only on Ascend is replaced by a stand-in. It binds the call to the real signature, checks
what the documentation demands, and moves the data once all ranks of a group have called. All ranks are in
this process and run in turn; results exist only after `wait`.
"""

from __future__ import annotations

import inspect
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from mindspore import communication, mint
from mindspore.mint.distributed import distributed

from tests.parallel.test_collectives import numbers
from vidgen_dist import nn
from vidgen_dist.errors import Refused
from vidgen_dist.parallel import hccl
from vidgen_dist.parallel.collectives import Group, PeerLost, PendingResult, Traffic
from vidgen_dist.parallel.degrees import Degrees, shares
from vidgen_dist.parallel.mesh import Mesh, make_mesh
from vidgen_dist.parallel.rendezvous import open_rendezvous

SIZE = 4
WORLD = "hccl_world_group"


@dataclass
class Handle:
    """A CommHandle: fills the output in `wait`, when all ranks have called."""

    fill: Callable[[], None]

    def wait(self) -> None:
        self.fill()


@dataclass
class Hccl:
    """The calls of HCCL's ranks, by group; `rank` is the rank that runs now."""

    rank: int = 0
    groups: dict[str, list[int]] = field(default_factory=lambda: {WORLD: list(range(SIZE))})
    created: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    calls: dict[tuple[str, int], list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    started: list[dict[str, Any]] = field(default_factory=list)

    def create_group(self, group: str, rank_ids: list[int], options: Any) -> None:
        assert isinstance(rank_ids, list)
        assert len(rank_ids) > 1
        assert len(set(rank_ids)) == len(rank_ids)
        assert self.rank in rank_ids, "only members create a group"
        assert group not in self.created[self.rank], "a group is created once"
        assert self.groups.setdefault(group, rank_ids) == rank_ids
        assert options is None
        self.created[self.rank].append(group)

    def _call(self, group: str, **arguments: Any) -> tuple[int, int]:
        """(index in the group, number of the call)."""
        assert group == WORLD or group in self.created[self.rank]
        calls = self.calls[group, self.rank]
        calls.append(arguments)
        return self.groups[group].index(self.rank), len(calls) - 1

    def _of_all(self, group: str, number: int) -> list[dict[str, Any]]:
        calls = [self.calls[group, rank] for rank in self.groups[group]]
        assert all(len(made) > number for made in calls), "a rank has not called: all would hang"
        return [made[number] for made in calls]

    def all_to_all_single(
        self,
        output: nn.Tensor,
        input: nn.Tensor,
        output_split_sizes: list[int],
        input_split_sizes: list[int],
        group: str,
        async_op: bool,
    ) -> Handle:
        """Split sizes count along axis 0; the i-th rank's j-th piece becomes the j-th rank's i-th piece."""
        assert async_op
        assert output.dtype == input.dtype
        assert input.is_contiguous()
        assert min(output.size, input.size) > 0, "memory to name"
        for tensor, sizes in ((output, output_split_sizes), (input, input_split_sizes)):
            assert tensor.ndim == 1
            assert len(sizes) == len(self.groups[group])
            assert all(isinstance(n, int) for n in sizes)
            assert sum(sizes) == tensor.size or not sum(sizes)
        place, number = self._call(group, input=input, sends=input_split_sizes)

        def fill() -> None:
            start = 0
            for sender, taken in zip(self._of_all(group, number), output_split_sizes, strict=True):
                before = sum(sender["sends"][:place])
                assert sender["sends"][place] == taken, "both sides must say the same"
                piece = sender["input"].asnumpy()[before : before + taken]
                output.asnumpy()[start : start + taken] = piece
                start += taken

        return Handle(fill)

    def all_gather_into_tensor(
        self, output_tensor: nn.Tensor, input_tensor: nn.Tensor, group: str, async_op: bool
    ) -> Handle:
        """All ranks pass one shape; their pieces follow one another along axis 0."""
        assert async_op
        assert input_tensor.is_contiguous()
        assert output_tensor.is_contiguous()
        assert output_tensor.dtype == input_tensor.dtype
        ranks = len(self.groups[group])
        assert output_tensor.shape == (ranks * input_tensor.shape[0], *input_tensor.shape[1:])
        _, number = self._call(group, input=input_tensor)

        def fill() -> None:
            pieces = [call["input"].asnumpy() for call in self._of_all(group, number)]
            assert len({piece.shape for piece in pieces}) == 1
            output_tensor.asnumpy()[...] = np.concatenate(pieces)

        return Handle(fill)


def bound(real: Callable[..., Any], compute: Callable[..., Any]) -> Callable[..., Any]:
    """Call compute with the arguments bound to the real function's signature."""
    signature = inspect.signature(real)

    def call(*args: Any, **kwargs: Any) -> Any:
        arguments = signature.bind(*args, **kwargs)
        arguments.apply_defaults()
        return compute(**arguments.arguments)

    return call


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Hccl:
    stand_in = Hccl()
    for name in ("all_to_all_single", "all_gather_into_tensor"):
        real = getattr(mint.distributed, name)
        monkeypatch.setattr(mint.distributed, name, bound(real, getattr(stand_in, name)))
    monkeypatch.setattr(
        communication, "create_group", bound(communication.create_group, stand_in.create_group)
    )
    return stand_in


def on_all(world: Hccl, begin: Callable[[Mesh], PendingResult], degrees: Degrees) -> list[Any]:
    """The results of all ranks of a gang: all begin, then all wait."""
    pending = []
    for rank in range(degrees.size):
        world.rank = rank
        mesh = make_mesh(hccl.HcclTransport(rank, degrees.size), rank, degrees)
        pending.append(begin(mesh))
    return [p.wait() for p in pending]


@pytest.fixture(params=[Degrees(4), Degrees(ulysses=2, ring=2), Degrees(ring=2, cfg=2)], ids=str)
def degrees(request: pytest.FixtureRequest) -> Degrees:
    return request.param


GROUPS = ["gang", "sequence", "ulysses", "ring", "cfg"]


@pytest.mark.parametrize("name", GROUPS)
def test_all_to_all_moves_uneven_pieces(world: Hccl, degrees: Degrees, name: str) -> None:
    # Rank r sends rank p an array of 2 r + p rows; 0 sends itself nothing.
    def begin(mesh: Mesh) -> PendingResult:
        group: Group = getattr(mesh, name)
        pieces = [nn.from_numpy(numbers(mesh.rank, p, (2 * mesh.rank + p, 3))) for p in group.ranks]
        return group.all_to_all(pieces, [(2 * p + mesh.rank, 3) for p in group.ranks], what="test")

    for r, taken in enumerate(on_all(world, begin, degrees)):
        ranks = getattr(make_mesh(None, r, degrees), name).ranks  # type: ignore[arg-type]
        for p, tensor in zip(ranks, taken, strict=True):
            np.testing.assert_array_equal(nn.to_numpy(tensor), numbers(p, r, (2 * p + r, 3)))


@pytest.mark.parametrize("name", GROUPS)
def test_a_shift_takes_part_everywhere(world: Hccl, degrees: Degrees, name: str) -> None:
    # From the first to the second, as views, whose values must be sent; the others take part with nothing.
    def begin(mesh: Mesh) -> PendingResult:
        group: Group = getattr(mesh, name)
        x = nn.from_numpy(numbers(mesh.rank, 0, (2, 3))).permute(1, 0)
        nothing = nn.zeros((0, 2))
        gives, takes = group.index == 0 and group.size > 1, group.index == 1
        pieces = [x if gives and i == 1 else nothing for i in range(group.size)]
        shapes = [(3, 2) if takes and i == 0 else (0, 2) for i in range(group.size)]
        return group.all_to_all(pieces, shapes, what="test")

    for r, taken in enumerate(on_all(world, begin, degrees)):
        group = getattr(make_mesh(None, r, degrees), name)  # type: ignore[arg-type]
        for i, tensor in enumerate(taken):
            if group.index == 1 and i == 0:
                np.testing.assert_array_equal(nn.to_numpy(tensor), numbers(group.ranks[0], 0, (2, 3)).T)
            else:
                assert tensor.shape == (0, 2)


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("total", [8, 7, 1, 0])
def test_all_gather_joins_uneven_pieces(world: Hccl, degrees: Degrees, name: str, total: int) -> None:
    def begin(mesh: Mesh) -> PendingResult:
        group: Group = getattr(mesh, name)
        lengths = shares(total, group.size)
        piece = nn.from_numpy(numbers(mesh.rank, 0, (2, lengths[group.index], 3))).permute(1, 0, 2)
        return group.all_gather(piece, lengths, what="test")

    for r, whole in enumerate(on_all(world, begin, degrees)):
        ranks = getattr(make_mesh(None, r, degrees), name).ranks  # type: ignore[arg-type]
        pieces = [
            numbers(p, 0, (2, n, 3)).transpose(1, 0, 2)
            for p, n in zip(ranks, shares(total, len(ranks)), strict=True)
        ]
        np.testing.assert_array_equal(nn.to_numpy(whole), np.concatenate(pieces))


def test_all_gather_puts_the_result_where_it_is_asked_for(world: Hccl) -> None:
    outs = [nn.zeros((SIZE * 2, 3)) for _ in range(SIZE)]

    def begin(mesh: Mesh) -> PendingResult:
        piece = nn.from_numpy(numbers(mesh.rank, 0, (2, 3)))
        return mesh.gang.all_gather(piece, [2] * SIZE, what="test", out=outs[mesh.rank])

    whole = np.concatenate([numbers(p, 0, (2, 3)) for p in range(SIZE)])
    for out, result in zip(outs, on_all(world, begin, Degrees(SIZE)), strict=True):
        assert result is out
        np.testing.assert_array_equal(nn.to_numpy(out), whole)


def test_groups_are_made_once_by_their_members_alone(world: Hccl) -> None:
    degrees = Degrees(ulysses=2, ring=2)

    def begin(mesh: Mesh) -> PendingResult:
        for name in ("ulysses", "ring", "ulysses", "gang"):
            group: Group = getattr(mesh, name)
            group.all_gather(nn.zeros((1,)), [1] * group.size, what="test")
        return mesh.ring.all_gather(nn.zeros((1,)), [1, 1], what="test")

    on_all(world, begin, degrees)
    assert world.created == {
        0: ["vidgen_0_1", "vidgen_0_2"],
        1: ["vidgen_0_1", "vidgen_1_3"],
        2: ["vidgen_2_3", "vidgen_0_2"],
        3: ["vidgen_2_3", "vidgen_1_3"],
    }


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []
    environment = ("HCCL_EXEC_TIMEOUT", "HCCL_CONNECT_TIMEOUT")

    def init_process_group(**arguments: Any) -> None:
        told = {name: os.environ[name] for name in environment}
        calls.append(arguments | told)

    real = mint.distributed.init_process_group
    monkeypatch.setattr(mint.distributed, "init_process_group", bound(real, init_process_group))
    # As MindSpore sets it, without a developer's own settings; restored afterwards.
    monkeypatch.setenv("HCCL_CONNECT_TIMEOUT", "600")
    monkeypatch.setenv("HCCL_EXEC_TIMEOUT", "0")
    monkeypatch.delenv("HCCL_EXEC_TIMEOUT")
    return calls


def test_ranks_meet_at_the_first_ones_port(starts: list[dict[str, Any]]) -> None:
    places = [open_rendezvous("ascend", "127.0.0.1") for _ in range(3)]
    addresses = [place.address for place in places]
    assert len(set(addresses)) == 3
    mesh = places[2].join(addresses, 2, Degrees(ring=3), 90)
    (call,) = starts
    assert call["backend"] == "hccl"
    assert distributed._parse_tcp_url_for_ipv4(call["init_method"]) == (
        "127.0.0.1",
        int(addresses[0].split(":")[1]),
    )
    assert (call["rank"], call["world_size"]) == (2, 3)
    assert call["timeout"] == timedelta(seconds=90)
    assert (mesh.rank, mesh.ring.ranks) == (2, (0, 1, 2))
    mesh.close()


def test_hccl_is_more_patient_than_who_supervises_it(starts: list[dict[str, Any]]) -> None:
    hccl.start("127.0.0.1", 1, 0, 2, 90)
    assert starts[0]["HCCL_EXEC_TIMEOUT"] == "16200"
    assert starts[0]["HCCL_CONNECT_TIMEOUT"] == "7200"
    # The documented ranges.
    assert 68 <= int(starts[0]["HCCL_EXEC_TIMEOUT"]) <= 17340
    assert 120 <= int(starts[0]["HCCL_CONNECT_TIMEOUT"]) <= 7200


def test_what_the_environment_says_of_patience_stays(
    starts: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HCCL_EXEC_TIMEOUT", "1200")
    monkeypatch.setenv("HCCL_CONNECT_TIMEOUT", "200")
    hccl.start("127.0.0.1", 1, 0, 2, 90)
    assert (starts[0]["HCCL_EXEC_TIMEOUT"], starts[0]["HCCL_CONNECT_TIMEOUT"]) == ("1200", "200")


def test_one_rank_starts_nothing(starts: list[dict[str, Any]]) -> None:
    place = open_rendezvous("ascend", "127.0.0.1")
    mesh = place.join([place.address], 0, Degrees(), 90)
    assert (mesh.size, mesh.transport, starts) == (1, None, [])


def fail(*_: Any, **__: Any) -> None:
    raise RuntimeError("Connect the meta server node timeout.\n\n- C++ Call Stack")


def test_who_does_not_come_is_lost(starts: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mint.distributed, "init_process_group", fail)
    with pytest.raises(PeerLost, match=r"^rank 1: Connect the meta server node timeout\.$"):
        hccl.start("127.0.0.1", 1, 1, 2, 90)
    assert not starts


def calls_of(transport: hccl.HcclTransport) -> Sequence[Callable[[], Any]]:
    group = Group((0, 1), 0, transport, Traffic())
    return (
        lambda: group.all_gather(nn.zeros((1,)), [1, 1], what="test").wait(),
        lambda: group.all_to_all([nn.zeros((1,))] * 2, [(1,)] * 2, what="test").wait(),
    )


@pytest.mark.parametrize("call", [0, 1])
def test_what_hccl_raises_is_peer_lost(world: Hccl, call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    world.groups[WORLD] = [0, 1]
    monkeypatch.setattr(Handle, "wait", fail)
    with pytest.raises(PeerLost, match=r"^rank 0: Connect"):
        calls_of(hccl.HcclTransport(0, 2))[call]()


@pytest.mark.parametrize("host", ["::1", "node-7"])
def test_a_host_that_mindspore_cannot_take_is_refused(host: str) -> None:
    with pytest.raises(Refused, match=f"host: '{host}' is not allowed; MindSpore's process groups take IPv4"):
        open_rendezvous("ascend", host)
