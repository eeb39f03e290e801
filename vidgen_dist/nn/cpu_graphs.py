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
from typing import Any

import numpy as np

from vidgen_dist.nn.cpu_jobs import Array, empty

# OpenVINO sends an event over the network when it is imported, unless this package is missing.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino as ov  # noqa: E402
from openvino import opset13 as op  # noqa: E402

Node = ov.Node

Build = Callable[..., Any]
"""Makes a graph's output, or a tuple of outputs, of its parameters (None for an absent one) and options."""


@dataclass
class _Graph:
    """A compiled graph. Its one request serves one thread at a time."""

    request: ov.InferRequest
    lock: threading.Lock = field(default_factory=threading.Lock)


_LARGE = 2**20
"""From this many numbers in a result on, a graph is compiled for its very shapes. It is then faster by more
than the 20 ms that compiling takes, after a few calls."""

_KEPT = 1000
"""Compiled graphs that are kept: a worker may meet videos of many sizes."""

_graphs: dict[tuple[Any, ...], _Graph] = {}
_compiling = threading.Lock()
_core: ov.Core | None = None
_threads = 1


def set_threads(threads: int) -> None:
    """Compute with this many threads; graphs that were compiled before are dropped."""
    global _threads
    _threads = threads
    _graphs.clear()


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
        inputs: float32 or bool. One that is a transposed view of a dense array is transposed in the graph;
            other views are copied.
        shapes: Of the outputs.
        fixed: Positions of inputs whose lengths the graph must know when it is compiled.
        options: Hashable.
    """
    sources, orders = zip(*map(dense, inputs), strict=True)
    if math.prod(shapes[0]) >= _LARGE:
        fixed = range(len(sources))
    lengths = tuple(
        None if x is None else (x.dtype.char, x.shape if i in fixed else x.ndim)
        for i, x in enumerate(sources)
    )
    key = (build, lengths, orders, tuple(options.items()))
    graph = _graphs.get(key)
    if graph is None:
        with _compiling:
            graph = _graphs[key] = _graphs.get(key) or _compile(build, sources, orders, fixed, options)
            if len(_graphs) > _KEPT:
                del _graphs[next(iter(_graphs))]
    outputs = tuple(empty(shape) for shape in shapes)
    if all(out.size for out in outputs):
        with graph.lock:
            for i, source in enumerate(x for x in sources if x is not None):
                graph.request.set_input_tensor(i, _shared(source))
            for i, out in enumerate(outputs):
                graph.request.set_output_tensor(i, _shared(out))
            graph.request.infer()
    return outputs


def _shared(x: Array) -> ov.Tensor:
    """OpenVINO's view of an array; it must outlive the view."""
    if not x.flags.writeable:
        # Weights of a mapped file: OpenVINO does not write to inputs, but refuses what it could not write to.
        memory: Any = (ctypes.c_char * x.nbytes).from_address(x.ctypes.data)
        x = np.ndarray(x.shape, x.dtype, memory)
    return ov.Tensor(x, shared_memory=True)


def dense(x: Array | None) -> tuple[Array | None, tuple[int, ...] | None]:
    """(array in one dense block, the order of its axes that gives x; None: as they are)."""
    if x is None or x.flags.c_contiguous:
        return x, None
    by_stride = sorted(range(x.ndim), key=lambda axis: -x.strides[axis])
    base = x.transpose(by_stride)
    if base.flags.c_contiguous:
        return base, tuple(int(i) for i in np.argsort(by_stride))
    return np.ascontiguousarray(x), None


def _compile(
    build: Build,
    sources: Sequence[Array | None],
    orders: Sequence[tuple[int, ...] | None],
    fixed: Sequence[int],
    options: dict[str, Any],
) -> _Graph:
    global _core
    if _core is None:
        _core = ov.Core()
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
    model = ov.Model(list(outputs) if isinstance(outputs, tuple) else [outputs], parameters)
    settings = {
        # Not bfloat16, where the processor has it.
        "INFERENCE_PRECISION_HINT": "f32",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": _threads,
        # Threads stay where the process may run (`sched_setaffinity`).
        "ENABLE_CPU_PINNING": False,
        "CPU_DENORMALS_OPTIMIZATION": False,
    }
    return _Graph(_core.compile_model(model, "CPU", settings).create_infer_request())
