"""Small OpenVINO graphs that compute on NumPy arrays: compiled once for each kind of input, then called.

A graph has free lengths where it can, so that one serves all shapes; large products and convolutions have one
for their very shapes, while there is room. Inputs and outputs are the arrays themselves: nothing is copied on
the way in or out.
"""

from __future__ import annotations

import ctypes
import math
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from mindspore import mint

# OpenVINO sends an event over the network when it is imported, unless its converter of models, which is not
# needed here, is missing.
sys.modules.setdefault("openvino.tools.ovc", None)  # type: ignore[arg-type]

import openvino as ov  # noqa: E402
from openvino import opset13 as op  # noqa: E402

Array = np.ndarray[Any, Any]

Node: TypeAlias = ov.Node

Key: TypeAlias = tuple[Any, ...]
"""All that a compiled graph depends on."""

Build = Callable[..., Any]
"""Makes a graph's output, or a tuple of outputs, of its parameters (None for an absent one) and options."""


LARGE = 2**20
"""From so many numbers on an array is large: what any call costs does not count beside it."""

_SMALL = 2**14
"""NumPy copies fewer numbers than this, in whatever order, in the time that calling a graph takes."""

_SHAPED_BYTES = 2**30
"""Memory of the graphs that are compiled for certain shapes; see `_Shaped.size`."""

_IDLE_CALLS = 20_000
"""After so many calls of others a graph of certain shapes is taken for one of a video that is finished."""


class _Graph:
    """A compiled graph. Its one request serves one thread at a time."""

    def __init__(self, request: ov.InferRequest) -> None:
        self._request = request
        self._lock = threading.Lock()

    def compute(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
        """Write the outputs."""
        with self._lock:
            for i, source in enumerate(inputs):
                self._request.set_input_tensor(i, _shared(source))
            for i, out in enumerate(outputs):
                self._request.set_output_tensor(i, _shared(out))
            # By default it would copy the outputs into new arrays.
            self._request.infer(share_outputs=True)


@dataclass
class _Shaped:
    """A graph that is compiled for certain shapes.

    Attributes:
        size: Bytes of its inputs and outputs: it keeps about as much of its own.
        call: Number of its last call.
    """

    graph: _Graph
    size: int
    call: int


class _Graphs:
    """The compiled graphs of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._core: ov.Core | None = None
        self._threads = 1
        self._free: dict[Key, _Graph] = {}
        self._shaped: dict[Key, _Shaped] = {}
        self._calls = 0

    def set_threads(self, threads: int) -> None:
        with self._lock:
            self._threads = threads
            self._free.clear()
            self._shaped.clear()

    def get(self, key: Key, make: Callable[[], ov.Model]) -> _Graph:
        """The graph of this key, which takes inputs of any lengths; it is made if there is none yet."""
        with self._lock:
            if key not in self._free:
                self._free[key] = self._compile(make())
            return self._free[key]

    def get_shaped(self, key: Key, make: Callable[[], ov.Model], size: int) -> _Graph | None:
        """The graph of this key, for certain shapes; None if there is none, and no room for it."""
        with self._lock:
            self._calls += 1
            if key not in self._shaped:
                if not self._has_room(size):
                    self._drop_idle()
                if not self._has_room(size):
                    return None
                self._shaped[key] = _Shaped(self._compile(make()), size, self._calls)
            shaped = self._shaped[key]
            shaped.call = self._calls
            return shaped.graph

    def _has_room(self, size: int) -> bool:
        return sum(shaped.size for shaped in self._shaped.values()) + size <= _SHAPED_BYTES

    def _drop_idle(self) -> None:
        """Graphs that are called stay, even if others find no room: a graph is slow to compile."""
        oldest = self._calls - _IDLE_CALLS
        self._shaped = {key: shaped for key, shaped in self._shaped.items() if shaped.call > oldest}

    def _compile(self, model: ov.Model) -> _Graph:
        if self._core is None:
            self._core = ov.Core()
        settings = {
            # Not bfloat16, where the processor has it.
            "INFERENCE_PRECISION_HINT": "f32",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": self._threads,
            # Threads stay where the process may run (`sched_setaffinity`).
            "ENABLE_CPU_PINNING": False,
            "CPU_DENORMALS_OPTIMIZATION": False,
        }
        return _Graph(self._core.compile_model(model, "CPU", settings).create_infer_request())


_graphs = _Graphs()


def set_threads(threads: int) -> None:
    """Compute with this many threads; graphs that were compiled before are dropped."""
    _graphs.set_threads(threads)


def _empty(shape: Sequence[int]) -> Array:
    """A float32 array for a result.

    A large one is from MindSpore's memory pool, which reuses freed blocks as they are; NumPy gets such arrays
    from the kernel, which zeroes them every time. For a small one the pool costs more than it saves.
    """
    if math.prod(shape) < LARGE:
        return np.empty(shape, np.float32)
    array: Array = mint.empty(tuple(shape)).asnumpy()
    return array


def compute(
    build: Build,
    inputs: Sequence[Array | None],
    *shapes: Sequence[int],
    fixed: Sequence[int] = (),
    shaped: bool = False,
    **options: Any,
) -> tuple[Array, ...]:
    """The outputs, in arrays of `shapes`, of the graph that `build(*parameters, **options)` makes.

    Args:
        build: The same function object for the same graph: it is part of the key of the compiled graph.
        inputs: float32, bool or int64. One that is a transposed view of a dense array is transposed in the
            graph; other views are copied.
        shapes: Of the outputs.
        fixed: Positions of inputs whose lengths the graph must know when it is compiled.
        shaped: Whether a graph that knows all lengths is faster by a tenth or more; there is one if the
            first output is large, and as long as there is room.
        options: Hashable.
    """
    sources, orders = zip(*map(_as_graphs_take_it, inputs), strict=True)

    def graph_of(known: Sequence[int]) -> tuple[Key, Callable[[], ov.Model]]:
        lengths = tuple(
            None if x is None else (x.dtype.char, x.shape if i in known else x.ndim)
            for i, x in enumerate(sources)
        )
        key = (build, lengths, orders, *options.items())
        return key, lambda: _model(build, sources, orders, known, options)

    graph = None
    arrays = [x for x in sources if x is not None]
    outputs = tuple(_empty(shape) for shape in shapes)
    if shaped and outputs[0].size >= LARGE:
        size = sum(x.nbytes for x in (*arrays, *outputs))
        graph = _graphs.get_shaped(*graph_of(range(len(sources))), size)
    if graph is None:
        graph = _graphs.get(*graph_of(fixed))
    if all(out.size for out in outputs):
        graph.compute(arrays, outputs)
    return outputs


def _shared(x: Array) -> ov.Tensor:
    """OpenVINO's view of an array; it must outlive the view."""
    if not x.flags.writeable:
        # Weights of a mapped file: OpenVINO does not write to inputs, but refuses what it could not write to.
        memory: Any = (ctypes.c_char * x.nbytes).from_address(x.ctypes.data)
        x = np.ndarray(x.shape, x.dtype, memory)
    return ov.Tensor(x, shared_memory=True)


def _as_graphs_take_it(x: Array | None) -> tuple[Array | None, tuple[int, ...] | None]:
    """(a contiguous array, the order of its axes that gives x; None: as they are)."""
    if x is None or x.flags.c_contiguous:
        return x, None
    order = _order(x)
    return (np.ascontiguousarray(x), None) if order is None else (x.transpose(np.argsort(order)), order)


def _order(x: Array) -> tuple[int, ...] | None:
    """The order of axes that gives x from the dense array that it is a transposed view of; None: of none."""
    by_stride = sorted(range(x.ndim), key=lambda axis: -x.strides[axis])
    if not x.transpose(by_stride).flags.c_contiguous:
        return None
    return tuple(int(i) for i in np.argsort(by_stride))


def copied(x: Array) -> Array:
    """A contiguous copy of an array.

    Where neighbours do not stay neighbours, NumPy copies them one by one: a large array several times slower
    than a graph.
    """
    order = None if x.flags.c_contiguous or x.size < _SMALL else _order(x)
    if order is not None and x.dtype == np.float32 and order[-1] != x.ndim - 1:
        return compute(_same, (x,), x.shape)[0]
    return x.copy()


def _same(x: Node) -> Node:
    return x


def _model(
    build: Build,
    sources: Sequence[Array | None],
    orders: Sequence[tuple[int, ...] | None],
    fixed: Sequence[int],
    options: dict[str, Any],
) -> ov.Model:
    parameters: list[Any] = []
    nodes: list[Any] = []
    for i, (source, order) in enumerate(zip(sources, orders, strict=True)):
        if source is None:
            nodes.append(None)
            continue
        lengths = list(source.shape) if i in fixed else [-1] * source.ndim
        node = op.parameter(ov.PartialShape(lengths), ov.Type(source.dtype))
        parameters.append(node)
        nodes.append(node if order is None else op.transpose(node, op.constant(np.array(order))))
    outputs = build(*nodes, **options)
    return ov.Model(list(outputs) if isinstance(outputs, tuple) else [outputs], parameters)
