"""Small OpenVINO graphs that compute on NumPy arrays: compiled once for each kind of input, then called.

A graph is built with free lengths where it can be, so that one serves all shapes. Inputs and outputs are the
arrays themselves: nothing is copied on the way in or out.
"""

from __future__ import annotations

import ctypes
import math
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from mindspore import mint

# OpenVINO sends an event over the network when it is imported, unless this package is missing.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino as ov  # noqa: E402
from openvino import opset13 as op  # noqa: E402

Array = np.ndarray[Any, Any]

Node: TypeAlias = ov.Node

Build = Callable[..., Any]
"""Makes a graph's output, or a tuple of outputs, of its parameters (None for an absent one) and options."""


LARGE = 2**20
"""From this many numbers in a result on, a graph is compiled for its very shapes. It is then faster by more
than the 20 ms that compiling takes, after a few calls."""

_SMALL = 2**14
"""NumPy copies fewer numbers than this, in whatever order, in the time that calling a graph takes."""

_KEPT_BYTES = 2**30
"""Memory of compiled graphs that are kept, for a worker meets videos of many sizes; see `_Graph.size`."""


@dataclass
class _Graph:
    """A compiled graph. Its one request serves one thread at a time.

    Attributes:
        size: Bytes of the inputs and outputs that it was compiled for: it keeps about as much of its own.
    """

    request: ov.InferRequest
    size: int
    lock: threading.Lock = field(default_factory=threading.Lock)


class _Graphs:
    """The compiled graphs of this process, the one that was used last at the end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._core: ov.Core | None = None
        self._threads = 1
        self._kept: dict[tuple[Any, ...], _Graph] = {}

    def set_threads(self, threads: int) -> None:
        with self._lock:
            self._threads = threads
            self._kept.clear()

    def get(self, key: tuple[Any, ...], make: Callable[[], ov.Model], size: int) -> _Graph:
        """The graph of this key, which is made if it is not kept; the others may have to go for it."""
        with self._lock:
            graph = self._kept.pop(key, None)
            if graph is None:
                graph = self._compile(make(), size)
                while self._kept and sum(g.size for g in self._kept.values()) > _KEPT_BYTES - size:
                    del self._kept[next(iter(self._kept))]
            self._kept[key] = graph
            return graph

    def _compile(self, model: ov.Model, size: int) -> _Graph:
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
        return _Graph(self._core.compile_model(model, "CPU", settings).create_infer_request(), size)


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
    **options: Any,
) -> tuple[Array, ...]:
    """The outputs, in arrays of `shapes`, of the graph that `build(*parameters, **options)` makes.

    Args:
        build: The same function object for the same graph: it is part of the key of the compiled graph.
        inputs: float32, bool or int64. One that is a transposed view of a dense array is transposed in the graph;
            other views are copied.
        shapes: Of the outputs.
        fixed: Positions of inputs whose lengths the graph must know when it is compiled.
        options: Hashable.
    """
    sources, orders = zip(*map(_as_graphs_take_it, inputs), strict=True)
    if math.prod(shapes[0]) >= LARGE:
        fixed = range(len(sources))
    lengths = tuple(
        None if x is None else (x.dtype.char, x.shape if i in fixed else x.ndim)
        for i, x in enumerate(sources)
    )
    size = sum(x.nbytes for x in sources if x is not None) + 4 * sum(map(math.prod, shapes))
    graph = _graphs.get(
        (build, lengths, orders, tuple(options.items())),
        lambda: _model(build, sources, orders, fixed, options),
        size,
    )
    outputs = tuple(_empty(shape) for shape in shapes)
    if all(out.size for out in outputs):
        with graph.lock:
            for i, source in enumerate(x for x in sources if x is not None):
                graph.request.set_input_tensor(i, _shared(source))
            for i, out in enumerate(outputs):
                graph.request.set_output_tensor(i, _shared(out))
            # By default it would copy the outputs into new arrays.
            graph.request.infer(share_outputs=True)
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
