"""Sharded weights: every rank of a gang keeps its share of each block, and a block is whole only while it
runs.

The author of a model names, on the class, what is sharded; the code that computes does not change:

    class Transformer(nn.Module):
        sharded = ("token_table", "blocks")

        def construct(self, ids):
            x = self.token_table(ids)
            for block in self.blocks:
                x = block(x)

Each name is the attribute path of a `ModuleList` or an `Embedding`. A `*` in it stands for every block of a
list; blocks without the rest of the path are skipped, as in `down_blocks.*.attentions`.

- A `ModuleList` must be iterated from the first block to the last. The iteration yields each block with its
  weights, while the next block's are being gathered. At other times a block has no weights: reading one is an
  AttributeError. Blocks use two buffers in turn, so a block's result must not be a view of its parameters.
  Blocks may differ in size.
- An `Embedding` sends only the rows that are asked for. All ranks of the gang ask for equally many ids, which
  may differ.

All ranks of the gang run the model in step, whichever tokens each of them has. `load_weights` with a mesh
does the rest; in a gang of one nothing changes.

As in ZeRO's third stage and FSDP (Rajbhandari et al. 2020, arXiv:1910.02054; Zhao et al. 2023,
arXiv:2304.11277), a block's parameters are one flat vector, and each rank keeps an equal share of it: one
collective gathers a block, and the parameters are views of the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from mindspore import mint

from vidgen_dist import nn
from vidgen_dist.parallel.collectives import Group, PendingResult, Shape
from vidgen_dist.parallel.degrees import bounds, shares

ALIGNMENT = 512
"""Parameters and shares begin at multiples of so many bytes, as memory allocated for them would."""

DtypeOf = Callable[[nn.Parameter], Any]
"""The dtype that a parameter, still empty, is to have."""

Read = Callable[[str, slice | None], np.ndarray]
"""Reads a tensor by its parameter's name: the rows (along axis 0) of the slice, or all of it."""


def shard(module: nn.Module, group: Group, read: Read, dtype_of: DtypeOf) -> set[str]:
    """Shard what the module's class declares as `sharded`; each rank reads only its share.

    Args:
        module: Its parameters are still empty.
        group: The ranks that hold the weights together.
        read: Reads the values.
        dtype_of: The dtype that they are to have.

    Returns:
        The names of the parameters that have their values now.

    Raises:
        TypeError: `sharded` names something other than a `ModuleList` or an `Embedding`.
        ValueError: The parameters of a list have different dtypes.
    """
    done: set[str] = set()
    for path in sharded_paths(module):
        *parents, name = path.split(".")
        parent = reduce(getattr, parents, module)
        whole = getattr(parent, name)
        prefix = f"{path}."
        done |= {prefix + key for key in nn.named_parameters(whole)}
        setattr(parent, name, _shard_one(whole, prefix, group, read, dtype_of))
    return done


def read_again(module: nn.Module, names: Collection[str], read: Read) -> None:
    """Read this rank's share of some parameters again, of a module that `shard` has sharded.

    Args:
        module: The module.
        names: The parameters' names, as `shard` returned them.
        read: Reads the values.
    """
    for path in sharded_paths(module):
        part = reduce(getattr, path.split("."), module)
        if isinstance(part, ShardedBlocks | ShardedEmbedding):
            part.read_again(frozenset(names), read)


def sharded_paths(module: nn.Module) -> list[str]:
    """The attribute paths that the module's class declares as `sharded`, with each `*` expanded.

    Raises:
        AttributeError: A name matches nothing in the module.
    """
    found = []
    for pattern in getattr(type(module), "sharded", ()):
        matching = list(_expand(module, pattern.split(".")))
        if not matching:
            raise AttributeError(f"{type(module).__name__}.sharded: no attribute matches {pattern}")
        found += matching
    return found


def _expand(module: nn.Module, parts: Sequence[str]) -> Iterator[str]:
    first, *rest = parts
    names = [str(i) for i in range(len(module))] if first == "*" else [first]
    for name in names:
        child = getattr(module, name, None)
        if child is None:
            continue
        yield from (f"{name}.{path}" for path in _expand(child, rest)) if rest else [name]


def _shard_one(whole: nn.Module, prefix: str, group: Group, read: Read, dtype_of: DtypeOf) -> nn.Module:
    if isinstance(whole, nn.ModuleList):
        if not len(whole):
            return whole
        dtypes = {dtype_of(parameter) for parameter in nn.named_parameters(whole).values()}
        if len(dtypes) != 1:
            raise ValueError(
                f"{prefix[:-1]}: only parameters of one dtype can be sharded; these have {dtypes or 'none'}"
            )
        (dtype,) = dtypes
        blocks = [_take_block(block, f"{prefix}{i}.", dtype, group, read) for i, block in enumerate(whole)]
        return ShardedBlocks(blocks, dtype, group)
    if isinstance(whole, nn.Embedding):
        return ShardedEmbedding(whole, f"{prefix}weight", dtype_of(whole.weight), group, read)
    raise TypeError(f"{prefix[:-1]} is a {type(whole).__name__}; a ModuleList or an Embedding can be sharded")


@dataclass(frozen=True)
class Layout:
    """Where a block's parameters lie in its flat vector; all numbers count elements.

    Args:
        shapes: The parameters' shapes.
        starts: Where each parameter begins.
        length: The vector's length, with the padding that makes the shares equal.
    """

    shapes: tuple[Shape, ...]
    starts: tuple[int, ...]
    length: int

    @classmethod
    def of(cls, shapes: Sequence[Shape], itemsize: int, ranks: int) -> Layout:
        """Parameters one after another, in a vector that divides into `ranks` equal shares."""
        unit = ALIGNMENT // itemsize
        starts, end = [], 0
        for shape in shapes:
            starts.append(end)
            end = _up(end + math.prod(shape), unit)
        return cls(tuple(shapes), tuple(starts), _up(end, unit * ranks))


def _up(number: int, unit: int) -> int:
    return -(-number // unit) * unit


def views(vector: nn.Tensor, starts: Sequence[int], shapes: Sequence[Shape]) -> list[nn.Tensor]:
    """Views of a vector with these shapes, beginning at these elements."""
    cut = _view_in_host_memory if nn.device() == "cpu" else _view_in_device_memory
    return [cut(vector, start, shape) for start, shape in zip(starts, shapes, strict=True)]


def _view_in_host_memory(vector: nn.Tensor, start: int, shape: Shape) -> nn.Tensor:
    # Through NumPy: on CPU, `asnumpy` of a tensor that begins within another's memory copies.
    return nn.from_numpy(vector.asnumpy()[start : start + math.prod(shape)].reshape(shape))


def _view_in_device_memory(vector: nn.Tensor, start: int, shape: Shape) -> nn.Tensor:
    return mint.narrow(vector, 0, start, math.prod(shape)).view(shape)


@dataclass
class _ShardedBlock:
    """A block without weights, and this rank's share of them, which may be read again.

    Args:
        module: The block.
        layout: The layout of its parameters.
        names: The parameters' names in the whole model.
        places: For each parameter the module that owns it, and its name there.
        share: (layout.length / ranks,).
    """

    module: nn.Module
    layout: Layout
    names: tuple[str, ...]
    places: tuple[tuple[Any, str], ...]
    share: nn.Tensor

    def fill(self, parameters: Sequence[nn.Tensor]) -> None:
        """Give the block its parameters."""
        for (owner, name), parameter in zip(self.places, parameters, strict=True):
            # Without setattr, which takes ten times as long on a MindSpore cell.
            vars(owner)[name] = parameter

    def empty(self, parameters: Sequence[nn.Tensor]) -> None:
        """Remove its parameters, but not those of a later run, if this run was abandoned and ends late."""
        for (owner, name), parameter in zip(self.places, parameters, strict=True):
            if vars(owner).get(name) is parameter:
                del vars(owner)[name]


def _take_block(module: nn.Module, prefix: str, dtype: Any, group: Group, read: Read) -> _ShardedBlock:
    """Read this rank's share of a block, and remove the empty parameters from the block."""
    parameters = dict(sorted(nn.named_parameters(module).items()))
    share_dtype = _numpy_dtype(dtype)
    shapes = [tuple(parameter.shape) for parameter in parameters.values()]
    layout = Layout.of(shapes, share_dtype.itemsize, group.size)
    names = tuple(prefix + key for key in parameters)
    share = _read_share(names, layout, share_dtype, group, read)
    places = []
    for key in parameters:
        *owners, name = key.split(".")
        owner = reduce(getattr, owners, module)
        delattr(owner, name)
        places.append((owner, name))
    return _ShardedBlock(module, layout, names, tuple(places), share)


def _read_share(names: Sequence[str], layout: Layout, dtype: np.dtype, group: Group, read: Read) -> nn.Tensor:
    """This rank's share of the vector of the parameters of these names."""
    mine = bounds(shares(layout.length, group.size), group.index)
    share = np.zeros(mine.stop - mine.start, dtype)
    for name, shape, start in zip(names, layout.shapes, layout.starts, strict=True):
        first, last = max(mine.start, start), min(mine.stop, start + math.prod(shape))
        if first < last:
            part = _elements(read, name, shape, first - start, last - start)
            share[first - mine.start : last - mine.start] = part
    return nn.from_numpy(share)


def _elements(read: Read, name: str, shape: Shape, first: int, last: int) -> np.ndarray:
    """Elements [first, last) of a tensor, counted as if it were flat; the rows that contain them are read."""
    if not shape:
        return read(name, None).reshape(1)
    width = math.prod(shape[1:])
    top, bottom = first // width, -(-last // width)
    return read(name, slice(top, bottom)).reshape(-1)[first - top * width : last - top * width]


def _numpy_dtype(dtype: Any) -> np.dtype:
    return mint.empty((0,), dtype=dtype).asnumpy().dtype


class ShardedBlocks(nn.ModuleList):
    """Blocks whose weights are sharded; see this module's docstring.

    While a run iterates over them, it holds twice the memory of the largest block in addition to the shares.
    Between two runs that memory is free, so the first block's weights cannot be gathered ahead.

    Args:
        blocks: The blocks.
        dtype: The dtype of their parameters.
        group: The ranks that hold them together.
    """

    def __init__(self, blocks: Sequence[_ShardedBlock], dtype: Any, group: Group) -> None:
        super().__init__(block.module for block in blocks)
        self._blocks = tuple(blocks)
        self._dtype = dtype
        self._group = group

    def __iter__(self) -> Iterator[nn.Module]:
        memory = _BlockBuffers([block.layout for block in self._blocks], self._dtype)
        ahead = self._gather(memory, 0)
        for i, block in enumerate(self._blocks):
            ahead.wait()
            if i + 1 < len(self._blocks):
                # Into the memory of the previous block, which has run.
                ahead = self._gather(memory, i + 1)
            parameters = memory.parameters(i)
            block.fill(parameters)
            try:
                yield block.module
            finally:
                block.empty(parameters)

    def read_again(self, names: frozenset[str], read: Read) -> None:
        """Read this rank's share of the blocks that have a parameter of these names again."""
        dtype = _numpy_dtype(self._dtype)
        for block in self._blocks:
            if not names.isdisjoint(block.names):
                # The old share's memory is free before the new one is read.
                block.share = nn.zeros((0,), self._dtype)
                block.share = _read_share(block.names, block.layout, dtype, self._group, read)

    def _gather(self, memory: _BlockBuffers, i: int) -> PendingResult[nn.Tensor]:
        share = self._blocks[i].share
        lengths = [share.shape[0]] * self._group.size
        return self._group.all_gather(share, lengths, what="weights", out=memory.vector(i))


class _BlockBuffers:
    """Two vectors, each as long as the longest block's, that hold whole blocks in turn.

    Blocks with the same layout and the same buffer share their views, which are made once.
    """

    def __init__(self, layouts: Sequence[Layout], dtype: Any) -> None:
        self._layouts = layouts
        length = max(layout.length for layout in layouts)
        self._vectors = [mint.empty((length,), dtype=dtype) for _ in layouts[:2]]
        self._views: dict[tuple[int, Layout], list[nn.Tensor]] = {}

    def vector(self, i: int) -> nn.Tensor:
        """The i-th block's whole vector."""
        (vector,) = views(self._vectors[i % 2], [0], [(self._layouts[i].length,)])
        return vector

    def parameters(self, i: int) -> list[nn.Tensor]:
        """The i-th block's parameters."""
        turn, layout = i % 2, self._layouts[i]
        if (turn, layout) not in self._views:
            self._views[turn, layout] = views(self._vectors[turn], layout.starts, layout.shapes)
        return self._views[turn, layout]


class ShardedEmbedding(nn.Module):
    """A table whose rows are sharded; see this module's docstring.

    Args:
        table: The whole table, empty, for its shape.
        name: Its parameter's name.
        dtype: The dtype of the rows.
        group: The ranks that hold it together.
        read: Reads the values.
    """

    def __init__(self, table: nn.Embedding, name: str, dtype: Any, group: Group, read: Read) -> None:
        super().__init__()
        self._group = group
        self._name, self._dtype = name, dtype
        count, self._width = table.weight.shape
        self._lengths = shares(count, group.size)
        self._edges = np.cumsum((0, *self._lengths))
        self._rows = self._read(read)

    def construct(self, ids: nn.Tensor) -> nn.Tensor:
        """ids (...) to (..., D).

        Raises:
            IndexError: An id that the table does not have.
        """
        asked = nn.to_numpy(ids).reshape(-1).astype(np.int32)
        if asked.size and not 0 <= asked.min() <= asked.max() < self._edges[-1]:
            raise IndexError(f"ids from {asked.min()} to {asked.max()}; the table has {self._edges[-1]} rows")
        group = self._group
        of_all = group.all_gather(nn.from_numpy(asked), [asked.size] * group.size, what="weights").wait()
        # Sorted, so that the rows arrive in order, one owner's after another's, each row once.
        needed = [np.unique(of_one) for of_one in nn.to_numpy(of_all).reshape(group.size, -1)]
        pieces = [self._own_rows(of_one) for of_one in needed]
        mine = needed[group.index]
        counts = np.diff(np.searchsorted(mine, self._edges))
        rows = group.all_to_all(pieces, [(int(n), self._width) for n in counts], what="weights").wait()
        places = np.searchsorted(mine, asked).astype(np.int32).reshape(ids.shape)
        return nn.embedding(nn.from_numpy(places), nn.cat([some for some in rows if some.shape[0]], 0))

    def read_again(self, names: frozenset[str], read: Read) -> None:
        """Read this rank's rows again, if the table's parameter is among these names."""
        if self._name in names:
            self._rows = self._read(read)

    def _read(self, read: Read) -> nn.Tensor:
        return nn.from_numpy(read(self._name, bounds(self._lengths, self._group.index)), self._dtype)

    def _own_rows(self, needed: np.ndarray) -> nn.Tensor:
        """The rows (n, D) of sorted ids that this rank has."""
        first, last = self._edges[self._group.index : self._group.index + 2]
        own = needed[np.searchsorted(needed, first) : np.searchsorted(needed, last)] - first
        if not own.size:
            return nn.zeros((0, self._width), self._rows.dtype)
        return nn.embedding(nn.from_numpy(own.astype(np.int32)), self._rows)
