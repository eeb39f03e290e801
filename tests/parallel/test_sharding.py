"""Sharded weights: the same numbers as with whole ones, from slices of which each rank reads only its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from tests.parallel.ranks import Ranks
from vidgen_dist import nn
from vidgen_dist.errors import Refused
from vidgen_dist.parallel import sharding
from vidgen_dist.parallel.collectives import Group
from vidgen_dist.parallel.degrees import Degrees
from vidgen_dist.parallel.mesh import Mesh, alone
from vidgen_dist.weights.load import load_weights
from vidgen_dist.weights.tensors import TensorFiles

WIDTH, VOCABULARY = 24, 11


HIDDEN = (40, 7, 7, 65, 40)
"""Sizes of the blocks, which differ and use each other's memory in turn."""


class Block(nn.Module):
    """A block with parameters of no axis, of one, of two, and with a list of its own."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList([nn.Linear(width, hidden), nn.Linear(hidden, width, bias=False)])
        self.gain = nn.empty_parameter((), "gain")

    def construct(self, x: nn.Tensor) -> nn.Tensor:
        first, second = self.layers
        return x + self.gain * second(nn.gelu(first(self.norm(x))))


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(WIDTH, hidden) for hidden in HIDDEN])

    def construct(self, x: nn.Tensor) -> nn.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class Model(nn.Module):
    sharded = ("table", "stack.blocks")

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, WIDTH)
        self.stack = Stack()
        self.out = nn.Linear(WIDTH, 3)

    def construct(self, ids: nn.Tensor) -> nn.Tensor:
        return self.out(self.stack(self.table(ids)))


def weights(dtype: Any = np.float32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    parameters = nn.named_parameters(Model())
    return {
        key: np.asarray(rng.standard_normal(p.shape, np.float32)).astype(dtype)
        for key, p in parameters.items()
    }


def checkpoint(folder: Path, content: dict[str, np.ndarray] | None = None) -> str:
    """With a prefix that `plain` removes."""
    content = weights() if content is None else content
    save_file({f"model.{key}": value for key, value in content.items()}, folder / "model.safetensors")
    return str(folder)


def plain(key: str) -> str:
    return key.removeprefix("model.")


def loaded(folder: str, mesh: Mesh | None = None) -> Model:
    model = Model()
    load_weights(model, folder, rename=plain, mesh=mesh)
    return model


def some_ids(rank: int) -> np.ndarray:
    """(2, 9); different on each rank."""
    return np.random.default_rng(rank).integers(0, VOCABULARY, (2, 9)).astype(np.int32)


def same_as_whole(mesh: Mesh, folder: str) -> bool:
    whole, model = loaded(folder), loaded(folder, mesh)
    return all(
        nn.to_numpy(model(ids)).tobytes() == nn.to_numpy(whole(ids)).tobytes()
        for ids in (nn.from_numpy(some_ids(mesh.rank + run)) for run in range(3))
    )


@pytest.mark.parametrize("degrees", [Degrees(2), Degrees(ring=3)])
@pytest.mark.parametrize("stored", [np.float32, ml_dtypes.bfloat16])
def test_outputs_are_those_of_whole_weights_bit_for_bit(
    ranks: Ranks, tmp_path: Path, degrees: Degrees, stored: type
) -> None:
    folder = checkpoint(tmp_path, weights(stored))
    assert ranks.run(same_as_whole, folder, degrees=degrees) == [True] * degrees.size


def bytes_sent(mesh: Mesh, folder: str) -> tuple[int, int]:
    model = loaded(folder, mesh)
    mesh.traffic.clear()
    model.stack(nn.zeros((1, WIDTH)))
    blocks = mesh.traffic.sent["weights"]
    model.table(nn.from_numpy(some_ids(mesh.rank)))
    assert set(mesh.traffic.sent) == {"weights"}
    return blocks, mesh.traffic.sent["weights"] - blocks


@pytest.mark.parametrize("size", [2, 3])
def test_a_rank_sends_its_share_of_each_block_once_to_each_and_of_the_table_the_rows_asked_for(
    ranks: Ranks, tmp_path: Path, size: int
) -> None:
    told = ranks.run(bytes_sent, checkpoint(tmp_path), degrees=Degrees(size))
    blocks = sum(value.nbytes for key, value in weights().items() if "blocks" in key)
    # Shares are equal, and parameters begin at multiples of 512 bytes.
    parameters = sum("blocks" in key for key in weights())
    most = blocks + 512 * (parameters + size * len(HIDDEN))
    edges = {2: (0, 6, 11), 3: (0, 4, 8, 11)}[size]
    for rank, (of_blocks, of_table) in enumerate(told):
        assert of_blocks == told[0][0]
        assert blocks * (size - 1) / size <= of_blocks <= most * (size - 1) / size
        others = [set(some_ids(r).flat) for r in range(size) if r != rank]
        rows = sum(edges[rank] <= i < edges[rank + 1] for ids in others for i in ids)
        assert of_table == rows * WIDTH * 4 + (size - 1) * some_ids(rank).nbytes


@contextlib.contextmanager
def counted_reads() -> Iterator[list[tuple[str, int]]]:
    """What `TensorFiles.read` returns in this block: (key, bytes)."""
    reads: list[tuple[str, int]] = []
    plain_read = TensorFiles.read

    def spy(self: TensorFiles, key: str, part: Any = None) -> np.ndarray:
        data = plain_read(self, key, part)
        reads.append((plain(key), data.nbytes))
        return data

    TensorFiles.read = spy  # type: ignore[method-assign]
    try:
        yield reads
    finally:
        TensorFiles.read = plain_read  # type: ignore[method-assign]


def seat(size: int, rank: int) -> Mesh:
    """A rank that can load weights, but not run: nothing can be exchanged."""
    return Mesh(gang=Group(tuple(range(size)), rank))


@pytest.mark.parametrize("size", [2, 3])
def test_each_rank_reads_its_slices_alone(tmp_path: Path, size: int) -> None:
    content, folder = weights(), checkpoint(tmp_path)
    told = []
    for rank in range(size):
        with counted_reads() as reads:
            loaded(folder, seat(size, rank))
        told.append(reads)
    whole = {key: value.nbytes for key, value in content.items()}
    read_by_all = dict.fromkeys(whole, 0)
    for reads in told:
        assert len({key for key, _ in reads}) == len(reads)
        for key, count in reads:
            read_by_all[key] += count
    for key, value in content.items():
        if key.startswith("out."):
            assert read_by_all[key] == size * whole[key]
        elif key == "table.weight":
            assert read_by_all[key] == whole[key]
        else:
            # If a boundary between shares is within a row, both sides read that row.
            row = whole[key] // value.shape[0] if value.shape else 0
            assert whole[key] <= read_by_all[key] <= whole[key] + (size - 1) * row
    resident = whole["out.weight"] + whole["out.bias"]
    sharded = sum(whole.values()) - resident
    rows = 2 * len(HIDDEN) * max(HIDDEN) * 4 + WIDTH * 4
    for reads in told:
        slack = 512 * (len(content) + size * len(HIDDEN)) / size + rows
        assert sum(count for _, count in reads) <= sharded / size + resident + slack


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stack.blocks.3.gain": None}, "1 missing: stack.blocks.3.gain"),
        ({"table.weight": None}, "1 missing: table.weight"),
        ({"stack.blocks.9.gain": np.zeros((), np.float32)}, "1 surplus: model.stack.blocks.9.gain"),
        (
            {"stack.blocks.1.norm.bias": np.zeros(3, np.float32)},
            "model.stack.blocks.1.norm.bias is (3,) in the file and (24,) in the model",
        ),
    ],
)
def test_what_does_not_fit_is_refused_on_every_rank_before_anything_is_read(
    tmp_path: Path, change: dict[str, np.ndarray | None], said: str
) -> None:
    content = {key: value for key, value in {**weights(), **change}.items() if value is not None}
    folder = checkpoint(tmp_path, content)
    for rank in range(2):
        with counted_reads() as reads, pytest.raises(Refused) as refused:
            loaded(folder, seat(2, rank))
        assert said in str(refused.value)
        assert str(tmp_path) in str(refused.value)
        assert reads == []


def weights_by_turn(mesh: Mesh, folder: str) -> list[tuple[list[bool], int]]:
    """While each block runs: which blocks have weights, and how many gathers were begun."""
    model = loaded(folder, mesh)
    transport: Any = mesh.transport
    plain_gather, begun = transport.all_gather, []

    def spy(*args: Any) -> Any:
        begun.append(args)
        return plain_gather(*args)

    transport.all_gather = spy
    blocks = model.stack.blocks

    def state() -> tuple[list[bool], int]:
        return [hasattr(blocks[i].norm, "weight") for i in range(len(blocks))], len(begun)

    return [*(state() for _ in blocks), state()]


def test_one_block_has_weights_and_the_next_ones_travel(ranks: Ranks, tmp_path: Path) -> None:
    count = len(HIDDEN)
    for told in ranks.run(weights_by_turn, checkpoint(tmp_path), degrees=Degrees(2)):
        *turns, (after, begun) = told
        for i, (having, under_way) in enumerate(turns):
            assert having == [j == i for j in range(count)]
            assert under_way == min(i + 2, count)
        assert not any(after)
        assert begun == count


def read_outside_of_its_turn(mesh: Mesh, folder: str) -> str:
    model = loaded(folder, mesh)
    try:
        model.stack.blocks[1](nn.zeros((1, WIDTH)))
    except AttributeError as error:
        return str(error)
    return ""


def test_weights_outside_of_their_turn_are_not_there(ranks: Ranks, tmp_path: Path) -> None:
    for told in ranks.run(read_outside_of_its_turn, checkpoint(tmp_path), degrees=Degrees(2)):
        assert "has no attribute 'gain'" in told


def broken_off(mesh: Mesh, folder: str) -> tuple[bool, bool]:
    """Whether a run after an abandoned one has the right weights, with and without the end of the old one."""
    whole, model = loaded(folder), loaded(folder, mesh)
    x = nn.from_numpy(np.random.default_rng(0).standard_normal((3, WIDTH), np.float32))
    expected = nn.to_numpy(whole.stack(x)).tobytes()
    old = iter(model.stack.blocks)
    next(old), next(old)
    right = []
    hidden = x
    for i, block in enumerate(model.stack.blocks):
        if i == 1:
            del old
        hidden = block(hidden)
    right.append(nn.to_numpy(hidden).tobytes() == expected)
    right.append(nn.to_numpy(model.stack(x)).tobytes() == expected)
    return tuple(right)  # type: ignore[return-value]


def test_a_run_that_is_broken_off_leaves_the_next_one_alone(ranks: Ranks, tmp_path: Path) -> None:
    assert ranks.run(broken_off, checkpoint(tmp_path), degrees=Degrees(2)) == [(True, True)] * 2


def ask_for_a_row_that_is_not(mesh: Mesh, folder: str) -> str:
    try:
        loaded(folder, mesh).table(nn.from_numpy(np.array([0, VOCABULARY], np.int32)))
    except IndexError as error:
        return str(error)
    return ""


def test_ids_beyond_the_table_are_refused(ranks: Ranks, tmp_path: Path) -> None:
    told = ranks.run(ask_for_a_row_that_is_not, checkpoint(tmp_path), degrees=Degrees(2))
    assert told == ["ids from 0 to 11; the table has 11 rows"] * 2


def test_a_rank_alone_keeps_its_modules_whole(tmp_path: Path) -> None:
    model = loaded(checkpoint(tmp_path), alone())
    assert type(model.stack.blocks) is nn.ModuleList
    for key, parameter in nn.named_parameters(model).items():
        np.testing.assert_array_equal(nn.to_numpy(parameter), weights()[key])


def test_a_list_without_blocks_stays_as_it_is() -> None:
    model = Model()
    model.stack.blocks = nn.ModuleList()
    assert sharding.shard(model, Group((0, 1)), read_zeros, lambda _: nn.float32) == {"table.weight"}
    assert list(model.stack.blocks) == []


def test_what_is_declared_must_be_a_list_or_a_table() -> None:
    class Wrong(Model):
        sharded = ("out",)

    with pytest.raises(TypeError, match="out is a Linear; a ModuleList or an Embedding"):
        sharding.shard(Wrong(), Group((0, 1)), read_zeros, lambda _: nn.float32)


def test_blocks_of_two_dtypes_are_told() -> None:
    with pytest.raises(ValueError, match=r"stack\.blocks: only parameters of one dtype"):
        sharding.shard(
            Model(),
            Group((0, 1)),
            read_zeros,
            lambda parameter: nn.float32 if len(parameter.shape) > 1 else nn.bfloat16,
        )


def read_zeros(name: str, rows: slice | None) -> np.ndarray:
    shape = nn.named_parameters(Model())[name].shape
    return np.zeros(shape, np.float32)[rows if rows is not None else ...]


class Loose(nn.Module):
    """A list of blocks whose parameters have the given shapes."""

    sharded = ("blocks",)

    def __init__(self, blocks: list[list[tuple[int, ...]]]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Module() for _ in blocks)
        for block, shapes in zip(self.blocks, blocks, strict=True):
            for i, shape in enumerate(shapes):
                setattr(block, f"p{i}", nn.empty_parameter(shape, f"p{i}"))


def joined(
    blocks: list[list[tuple[int, ...]]], content: dict[str, np.ndarray], size: int, dtype: Any
) -> dict[str, nn.Tensor]:
    """The parameters, as views of the vectors that all ranks' shares form."""
    models = [Loose(blocks) for _ in range(size)]
    for rank, model in enumerate(models):

        def read(name: str, rows: slice | None) -> np.ndarray:
            return content[name][... if rows is None else rows]

        done = sharding.shard(model, Group(tuple(range(size)), rank), read, lambda _: dtype)
        assert done == set(content)
    found = {}
    for i, parts in enumerate(zip(*(model.blocks._blocks for model in models), strict=True)):
        assert len({part.share.shape for part in parts}) == 1
        vector = nn.from_numpy(np.concatenate([part.share.asnumpy() for part in parts]))
        layout = parts[0].layout
        views = sharding.views(vector, layout.starts, layout.shapes)
        found |= {f"blocks.{i}.{part[1]}": view for part, view in zip(parts[0].places, views, strict=True)}
    return found


SHAPES = st.lists(st.integers(1, 40), max_size=3).map(tuple)


@given(blocks=st.lists(st.lists(SHAPES, max_size=4), min_size=1, max_size=3), size=st.integers(2, 5))
def test_shares_of_all_ranks_are_the_weights(blocks: list[list[tuple[int, ...]]], size: int) -> None:
    assume(any(blocks))
    rng = np.random.default_rng(1)
    content = {
        f"blocks.{i}.p{j}": np.asarray(rng.standard_normal(shape, np.float32))
        for i, shapes in enumerate(blocks)
        for j, shape in enumerate(shapes)
    }
    found = joined(blocks, content, size, nn.float32)
    assert set(found) == set(content)
    for key, view in found.items():
        np.testing.assert_array_equal(nn.to_numpy(view), content[key])


def test_shares_are_cast_as_whole_weights_are() -> None:
    rng = np.random.default_rng(2)
    content = {"blocks.0.p0": rng.standard_normal((33, 65), np.float32), "blocks.0.p1": np.float32([1.003])}
    for key, view in joined([[(33, 65), (1,)]], content, 2, nn.bfloat16).items():
        assert view.dtype == nn.bfloat16
        expected = nn.from_numpy(content[key], nn.bfloat16)
        assert nn.to_numpy(view).tobytes() == nn.to_numpy(expected).tobytes()


@pytest.mark.parametrize("cut", [sharding._view_in_host_memory, sharding._view_in_device_memory])
def test_views_see_what_is_put_into_the_vector(cut: Any) -> None:
    vector = nn.zeros((64,))
    view = cut(vector, 10, (4, 5))
    vector.asnumpy()[:] = np.arange(64)
    np.testing.assert_array_equal(nn.to_numpy(view), np.arange(10, 30).reshape(4, 5))
    assert cut(vector, 3, ()).shape == ()


class Levels(nn.Module):
    """Lists within the blocks of a list, iterated in lockstep; not every block has both."""

    sharded = ("levels.*.first", "levels.*.second")

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList([Level(2), Level(0), Level(1)])

    def construct(self, x: nn.Tensor) -> nn.Tensor:
        for level in self.levels:
            x = level(x)
        return x


class Level(nn.Module):
    def __init__(self, second: int) -> None:
        super().__init__()
        self.first = nn.ModuleList([Block(WIDTH, 7 + i) for i in range(2)])
        self.second = nn.ModuleList([Block(WIDTH, 9 + i) for i in range(second)]) if second else None

    def construct(self, x: nn.Tensor) -> nn.Tensor:
        if self.second is None:
            for block in self.first:
                x = block(x)
            return x
        for first, second in zip(self.first, self.second, strict=False):
            x = second(first(x))
        return x


def run_levels(mesh: Mesh, folder: str, x: np.ndarray) -> list[np.ndarray]:
    model = Levels()
    load_weights(model, folder, mesh=mesh)
    return [nn.to_numpy(model(nn.from_numpy(x))) for _ in range(2)]


def test_lists_within_blocks_run_in_lockstep(ranks: Ranks, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    shapes = {key: value.shape for key, value in nn.named_parameters(Levels()).items()}
    tensors = {key: np.asarray(rng.standard_normal(shape), np.float32) for key, shape in shapes.items()}
    save_file(tensors, tmp_path / "model.safetensors")
    x = rng.standard_normal((3, WIDTH)).astype(np.float32) / 8
    expected, _ = run_levels(alone(), str(tmp_path), x)
    assert sharding.sharded_paths(Levels()) == [
        *(f"levels.{i}.first" for i in range(3)),
        "levels.0.second",
        "levels.2.second",
    ]
    for told in ranks.run(run_levels, str(tmp_path), x, degrees=Degrees(2)):
        for again in told:
            np.testing.assert_allclose(again, expected, rtol=1e-5, atol=1e-6)


def test_a_pattern_that_nothing_matches_is_refused() -> None:
    class Wrong(Levels):
        sharded = ("levels.*.third",)

    with pytest.raises(AttributeError, match=r"no attribute matches levels\.\*\.third"):
        sharding.sharded_paths(Wrong())
