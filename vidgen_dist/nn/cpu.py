"""The functions on the CPU: small OpenVINO graphs on memory shared with MindSpore's tensors.

MindSpore's own CPU kernels are several times slower, and its convolutions use oneDNN's reference kernel on
AVX-512. `asnumpy` and `from_numpy` alias a tensor's memory. The same input gives the same bits with any
number of threads.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, mint

from vidgen_dist.nn.cpu_graphs import LARGE, Array, Build, Node, compute, copied, op

_NUMPY_DTYPES: dict[Any, Any] = {
    ms.bool_: np.bool_,
    ms.uint8: np.uint8,
    ms.int32: np.int32,
    ms.int64: np.int64,
    ms.float16: np.float16,
    ms.float32: np.float32,
    ms.float64: np.float64,
}

_LOWEST = float(np.finfo(np.float32).min)

_SMALL = 65536
"""A piece of at most so many numbers is copied: the operators that follow would copy it again and again."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., I) times weight (O, I) transposed, plus bias (O,)."""
    return _by_rows(_linear, x, (weight, bias), size=weight.shape[0], shaped=True)


def _linear(x: Node, weight: Node, bias: Node | None) -> Node:
    return _affine(op.matmul(x, weight, False, True), None, bias)


def activated_linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str, gated: bool) -> Tensor:
    """An activation of `linear`'s results; with `gated`, of their second half, times the first."""
    size = weight.shape[0] // 2 if gated else weight.shape[0]
    options: dict[str, Any] = {"activation": activation, "gated": gated}
    return _by_rows(_activated_linear, x, (weight, bias), size=size, shaped=True, **options)


def _activated_linear(x: Node, weight: Node, bias: Node | None, *, activation: str, gated: bool) -> Node:
    hidden = _linear(x, weight, bias)
    if not gated:
        return _ACTIVATIONS[activation](hidden)
    value, gate = op.split(hidden, op.constant(np.int64(-1)), 2).outputs()
    return op.multiply(value, _ACTIVATIONS[activation](gate))


_ACTIVATIONS: dict[str, Callable[[Node], Node]] = {
    "silu": op.swish,
    "gelu": functools.partial(op.gelu, approximation_mode="erf"),
    "gelu_tanh": functools.partial(op.gelu, approximation_mode="tanh"),
    "gelu_sigmoid": lambda x: op.multiply(x, op.sigmoid(op.multiply(x, _number(1.702)))),
}


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """a (..., N, K) times b (..., K, M), leading axes broadcast."""
    shape = (*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])
    return _compute(op.matmul, (a, b), shape, shaped=True, transpose_a=False, transpose_b=False)


def embedding(ids: Tensor, weight: Tensor) -> Tensor:
    """Rows of weight (V, D) by ids (...): (..., D)."""
    return Tensor.from_numpy(_array(weight)[_array(ids)])


def layer_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    scale: Tensor | None,
    shift: Tensor | None,
) -> Tensor:
    """Normalise over the last axis, then scale and shift."""
    return _by_rows(_layer_norm, x, (weight, bias), (scale, shift), eps=eps)


def _layer_norm(
    x: Node, weight: Node | None, bias: Node | None, scale: Node | None, shift: Node | None, *, eps: float
) -> Node:
    return _modulated(_affine(_mvn(x, -1, eps), weight, bias), scale, shift)


def rms_norm(
    x: Tensor, weight: Tensor | None, eps: float, scale: Tensor | None, shift: Tensor | None
) -> Tensor:
    """Divide by the root mean square over the last axis, then scale and shift."""
    return _by_rows(_rms_norm, x, (weight,), (scale, shift), axis=-1, eps=eps)


def channel_rms_norm(x: Tensor, eps: float) -> Tensor:
    """Divide x (B, C, ...) by the root mean square over its channels."""
    return _compute(_rms_norm, (x, None, None, None), x.shape, axis=1, eps=eps)


def _rms_norm(
    x: Node, weight: Node | None, scale: Node | None, shift: Node | None, *, axis: int, eps: float
) -> Node:
    square = op.reduce_mean(op.multiply(x, x), _ints(axis), True)
    normed = op.divide(x, op.sqrt(op.add(square, _number(eps))))
    return _modulated(_affine(normed, weight, None), scale, shift)


def group_norm(
    x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float, activated: bool = False
) -> Tensor:
    """Normalise x (B, C, ...) over each group of C / groups channels and all axes after them."""
    return _by_channels(_group_norm, x, (weight, bias), groups=groups, eps=eps, activated=activated)


def _group_norm(
    x: Node, weight: Node | None, bias: Node | None, *, groups: int, eps: float, activated: bool
) -> Node:
    normed = op.reshape(_mvn(_grouped(x, groups), 2, eps), op.shape_of(x), False)
    scaled = _affine(normed, _by_channel(weight, x), _by_channel(bias, x))
    return op.swish(scaled) if activated else scaled


def group_moments(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and variance (B, groups) of each group of x (B, C, ...)."""
    shape = (x.shape[0], groups)
    mean, variance = compute(_group_moments, (_float(x),), shape, shape, groups=groups)
    return Tensor.from_numpy(mean), Tensor.from_numpy(variance)


def _group_moments(x: Node, *, groups: int) -> tuple[Node, Node]:
    values = _grouped(x, groups)
    mean = op.reduce_mean(values, _ints(2), True)
    centred = op.subtract(values, mean)
    return op.squeeze(mean, _ints(2)), op.reduce_mean(op.multiply(centred, centred), _ints(2), False)


def group_norm_with(
    x: Tensor,
    groups: int,
    mean: Tensor,
    variance: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activated: bool = False,
) -> Tensor:
    """`group_norm` with given moments (B, groups)."""
    moments = (mean, variance, weight, bias)
    return _by_channels(_group_norm_with, x, moments, groups=groups, eps=eps, activated=activated)


def _group_norm_with(
    x: Node,
    mean: Node,
    variance: Node,
    weight: Node | None,
    bias: Node | None,
    *,
    groups: int,
    eps: float,
    activated: bool,
) -> Node:
    mean, variance = (op.unsqueeze(moment, _ints(2)) for moment in (mean, variance))
    normed = op.divide(op.subtract(_grouped(x, groups), mean), op.sqrt(op.add(variance, _number(eps))))
    normed = op.reshape(normed, op.shape_of(x), False)
    scaled = _affine(normed, _by_channel(weight, x), _by_channel(bias, x))
    return op.swish(scaled) if activated else scaled


def silu(x: Tensor) -> Tensor:
    """x times its sigmoid."""
    return _one_by_one(op.swish, x)


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x))."""
    return _one_by_one(op.sigmoid, x)


def tanh(x: Tensor) -> Tensor:
    """Hyperbolic tangent; MindSpore's own has an error of 1e-4."""
    return _one_by_one(op.tanh, x)


def exp(x: Tensor) -> Tensor:
    """e to the x; MindSpore's own has a relative error of 2e-5."""
    return _one_by_one(op.exp, x)


def sin(x: Tensor) -> Tensor:
    """Sine of x in radians."""
    return Tensor.from_numpy(np.sin(_float(x)))


def cos(x: Tensor) -> Tensor:
    """Cosine of x in radians."""
    return Tensor.from_numpy(np.cos(_float(x)))


def clip(x: Tensor, low: float | None, high: float | None) -> Tensor:
    """x, no smaller than low and no larger than high."""
    return Tensor.from_numpy(np.clip(_array(x), low, high))


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU by its tanh approximation (Hendrycks and Gimpel, 2016)."""
    return _one_by_one(op.gelu, x, approximation_mode="tanh")


def gelu_erf(x: Tensor) -> Tensor:
    """GELU by the error function."""
    return _one_by_one(op.gelu, x, approximation_mode="erf")


def add(x: Tensor, y: Tensor | float) -> Tensor:
    """x + y."""
    return _broadcast(op.add, x, y)


def multiply(x: Tensor, y: Tensor | float) -> Tensor:
    """x * y."""
    return _broadcast(op.multiply, x, y)


def multiply_add(x: Tensor, factor: Tensor, addend: Tensor) -> Tensor:
    """x * factor + addend."""
    return _broadcast(_multiply_add, x, factor, addend)


def _multiply_add(x: Node, factor: Node, addend: Node) -> Node:
    return op.add(op.multiply(x, factor), addend)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, swap: Tensor) -> Tensor:
    """x * cos + (x @ swap) * sin."""
    return _compute(_rotate, (x, cos, sin, swap), x.shape)


def _rotate(x: Node, cos: Node, sin: Node, swap: Node) -> Node:
    return op.add(op.multiply(x, cos), op.multiply(op.matmul(x, swap, False, False), sin))


def cat(tensors: Sequence[Tensor], axis: int) -> Tensor:
    """Concatenate tensors along an axis."""
    arrays = [_array(t) for t in tensors]
    axis %= arrays[0].ndim
    shapes = [[*a.shape[:axis], 0, *a.shape[axis + 1 :]] for a in arrays]
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError(f"tensors of shapes {[a.shape for a in arrays]} do not join along axis {axis}")
    filled = [a for a in arrays if a.size]
    shapes[0][axis] = sum(a.shape[axis] for a in filled)
    small = math.prod(shapes[0]) < LARGE
    if small or len(filled) < 2 or any(a.dtype != np.float32 for a in arrays):
        return Tensor.from_numpy(np.concatenate(arrays, axis))
    (out,) = compute(_cat, filled, shapes[0], axis=axis)
    return Tensor.from_numpy(out)


def _cat(*parts: Node, axis: int) -> Node:
    return op.concat(list(parts), axis)


def split(x: Tensor, sizes: Sequence[int], axis: int) -> tuple[Tensor, ...]:
    """Pieces of x along an axis: views, but copies of small pieces, for the operators that follow."""
    pieces = mint.split(x, list(sizes), axis)
    return tuple(p if p.is_contiguous() or p.size > _SMALL else copy(p) for p in pieces)


def reshape(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """x in another shape: a view if possible."""
    if x.is_contiguous() or x.dtype not in _NUMPY_DTYPES:
        return x.reshape(shape)
    view = _array(x).view()
    try:
        view.shape = shape
    except AttributeError:
        x = copy(x)
    return x.reshape(shape)


def copy(x: Tensor) -> Tensor:
    """A contiguous copy of x.

    The kernel with which MindSpore makes a view contiguous is slow, and wakes threads that then spin for 0.2
    s on the cores that we compute on.
    """
    return Tensor.from_numpy(copied(_array(x))) if x.dtype in _NUMPY_DTYPES else x.copy()


def zeros(shape: tuple[int, ...], dtype: Any) -> Tensor:
    """A tensor of 0; MindSpore's own kernel wakes the threads that `copy` describes."""
    if dtype not in _NUMPY_DTYPES:
        return mint.zeros(shape, dtype=dtype)
    return Tensor.from_numpy(np.zeros(shape, _NUMPY_DTYPES[dtype]))


def softmax(x: Tensor, axis: int) -> Tensor:
    """Exponentials that sum to 1 over `axis`; the largest value is subtracted first."""
    return _compute(op.softmax, (x,), x.shape, axis=axis)


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor | None, scale: float
) -> Tensor:
    """Softmax attention. A query that may attend to no key gives 0."""
    batch, heads, n, _ = q.shape
    # (B, N, heads, D) in memory: all callers can then reshape the result as a view.
    shape = (batch, n, heads, v.shape[-1])
    if not k.shape[2]:
        return Tensor.from_numpy(np.zeros(shape, np.float32)).transpose(0, 2, 1, 3)
    # The operator scales by 1 / sqrt(D); without a mask it ignores another scale that it is given.
    gain = round(scale * math.sqrt(q.shape[-1]), 12)
    # Transposed keys cost the operator more than a copy does, transposed queries and values nothing.
    keys = k if k.is_contiguous() else copy(k)
    return _compute(_attention, (q, keys, v, mask, bias), shape, gain=gain).transpose(0, 2, 1, 3)


def _attention(q: Node, k: Node, v: Node, mask: Node | None, bias: Node | None, *, gain: float) -> Node:
    added = mask if bias is None else bias
    if mask is not None and bias is not None:
        added = op.select(mask, bias, _number(-np.inf))
    if gain != 1:
        q = op.multiply(q, _number(gain))
    out = op.scaled_dot_product_attention(q, k, v, added)
    if mask is not None:
        out = op.select(op.reduce_logical_or(mask, _ints(-1), True), out, _number(0))
    return _tokens_before_heads(out)


_SCORES = 2**22
"""Scores in one call of `attention_with_lse`, which keeps them in memory."""


def attention_with_lse(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """As `attention`, and each query's log-sum-exp of scores (B, heads, N)."""
    queries, keys, values = (np.ascontiguousarray(_float(x)) for x in (q, k, v))
    batch, heads, n, m = (*queries.shape[:3], keys.shape[2])
    allowed = None if mask is None else np.broadcast_to(_array(mask), (batch, 1, n, m))
    out = np.zeros((batch, n, heads, values.shape[-1]), np.float32)
    lse = np.full((batch, heads, n), -np.inf, np.float32)
    step = max(1, _SCORES // max(1, heads * m))
    for b, start in itertools.product(range(batch), range(0, n if m else 0, step)):
        one, rows = slice(b, b + 1), slice(start, min(start + step, n))
        shapes = (out[one, rows].shape, lse[one, :, rows].shape)
        part = None if allowed is None else allowed[one, :, rows]
        inputs = (queries[one, :, rows], keys[one], values[one], part)
        out[one, rows], lse[one, :, rows] = compute(_attention_with_lse, inputs, *shapes, scale=scale)
    return Tensor.from_numpy(out).transpose(0, 2, 1, 3), Tensor.from_numpy(lse)


def _attention_with_lse(q: Node, k: Node, v: Node, mask: Node | None, *, scale: float) -> tuple[Node, Node]:
    scores = op.matmul(op.multiply(q, _number(scale)), k, False, True)
    if mask is not None:
        # Finite, so that a query without keys has no infinity minus infinity.
        scores = op.select(mask, scores, _number(_LOWEST))
    top = op.reduce_max(scores, _ints(-1), True)
    weights = op.exp(op.subtract(scores, top))
    total = op.reduce_sum(weights, _ints(-1), True)
    out = op.divide(op.matmul(weights, v, False, False), total)
    lse = op.add(op.log(total), top)
    if mask is not None:
        some = op.reduce_logical_or(mask, _ints(-1), True)
        out, lse = op.select(some, out, _number(0)), op.select(some, lse, _number(-np.inf))
    return _tokens_before_heads(out), op.squeeze(lse, _ints(-1))


def _tokens_before_heads(x: Node) -> Node:
    return op.transpose(x, _ints(0, 2, 1, 3))


def merge_attention(out: Tensor, lse: Tensor, other_out: Tensor, other_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Attention to all keys, from attention to some of them and to the others."""
    batch, heads, n, size = out.shape
    inputs = [_float(x) for x in (out, lse, other_out, other_lse)]
    merged, total = compute(_merge_attention, inputs, (batch, n, heads, size), (batch, heads, n))
    return Tensor.from_numpy(merged).transpose(0, 2, 1, 3), Tensor.from_numpy(total)


def _merge_attention(out: Node, lse: Node, other_out: Node, other_lse: Node) -> tuple[Node, Node]:
    # Where both are -inf there is no key to attend to on either side: finite, the weights are no NaN.
    top = op.maximum(op.maximum(lse, other_lse), _number(_LOWEST))
    weights = [op.unsqueeze(op.exp(op.subtract(x, top)), _ints(3)) for x in (lse, other_lse)]
    total = op.add(*weights)
    mixed = op.add(op.multiply(out, weights[0]), op.multiply(other_out, weights[1]))
    merged = op.divide(mixed, op.maximum(total, _number(float(np.finfo(np.float32).tiny))))
    return _tokens_before_heads(merged), op.add(op.log(op.squeeze(total, _ints(3))), top)


def conv3d(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    """x (B, I, T, H, W), weight (O, I, kT, kH, kW); zero padding before and after each axis."""
    return _convolve(x, weight, bias, stride, padding)


def conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    """x (B, I, H, W), weight (O, I, kH, kW); zero padding before and after each axis."""
    return _convolve(x, weight, bias, stride, padding)


def _convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    size, kernel = x.shape[2:], weight.shape[2:]
    places = [(n + 2 * p - k) // s + 1 for n, p, k, s in zip(size, padding, kernel, stride, strict=True)]
    if min(places) < 1:
        raise ValueError(
            f"a kernel of {tuple(kernel)} does not fit into {tuple(size)} padded by {tuple(padding)}"
        )
    shape = (x.shape[0], weight.shape[0], *places)
    if tuple(kernel) == tuple(stride) == (1,) * len(kernel) and not any(padding):
        return _by_channels(_pointwise, x, (weight.reshape(weight.shape[:2]), bias), weight.shape[0])
    options = {"stride": tuple(stride), "padding": tuple(padding)}
    return _compute(_convolution, (x, weight, bias), shape, fixed=(1,), shaped=True, **options)


def _pointwise(x: Node, weight: Node, bias: Node | None) -> Node:
    """A kernel of one point, as a product: channels stay where they are in memory."""
    return _affine(op.matmul(weight, x, False, False), None, _by_channel(bias, x))


def _convolution(
    x: Node, weight: Node, bias: Node | None, *, stride: tuple[int, ...], padding: tuple[int, ...]
) -> Node:
    out = op.convolution(x, weight, stride, padding, padding, [1] * len(stride))
    return _affine(out, None, _by_channel(bias, x))


_PAD_MODES = {"constant": "constant", "replicate": "edge", "reflect": "reflect"}


def pad(x: Tensor, widths: Sequence[int], mode: str) -> Tensor:
    """Pad the last len(widths) / 2 axes, last axis first."""
    pairs = [(0, 0)] * x.ndim
    for i in range(len(widths) // 2):
        pairs[-1 - i] = (widths[2 * i], widths[2 * i + 1])
    if x.dtype != ms.float32 or not x.size:
        numpy_mode: Any = _PAD_MODES[mode]
        return Tensor.from_numpy(np.pad(_array(x), pairs, mode=numpy_mode))
    before, after = zip(*pairs, strict=True)
    shape = [n + sum(pair) for n, pair in zip(x.shape, pairs, strict=True)]
    return _compute(_pad, (x,), shape, before=before, after=after, mode=_PAD_MODES[mode])


def _pad(x: Node, *, before: tuple[int, ...], after: tuple[int, ...], mode: str) -> Node:
    return op.pad(x, _ints(*before), _ints(*after), mode, _number(0) if mode == "constant" else None)


def take(x: Tensor, indices: Sequence[Array]) -> Tensor:
    """Take indices[i] along axis 2 + i of x (B, C, ...)."""
    shape = (*x.shape[:2], *(len(index) for index in indices))
    (out,) = compute(_take, (_float(x), *(index.astype(np.int64) for index in indices)), shape)
    return Tensor.from_numpy(out)


def _take(x: Node, *indices: Node) -> Node:
    # Frames first, then rows: they are copied as wholes.
    for axis, index in enumerate(indices, 2):
        x = op.gather(x, index, _ints(axis))
    return x


# Shared by the functions above. ------------------------------------------------------------------


def _array(x: Tensor) -> Array:
    """The tensor's values without a copy, with the tensor's strides; valid as long as the tensor lives."""
    dtype = _NUMPY_DTYPES.get(x.dtype)
    if dtype is None or not x.size:
        array: Array = x.asnumpy()
        return array
    # asnumpy costs several times as much, and first makes a view contiguous, which is slow. (`data_ptr` waits
    # until the values are there. `Tensor.strides` ignores views, `stride()` does not.)
    strides, extent = None, x.nbytes
    if not x.is_contiguous():
        strides = [step * x.itemsize for step in x.stride()]
        extent = sum((n - 1) * step for n, step in zip(x.shape, strides, strict=True)) + x.itemsize
    memory = (ctypes.c_char * extent).from_address(x.data_ptr())
    return np.ndarray(x.shape, dtype, memory, strides=strides)


def _float(x: Tensor) -> Array:
    return _array(x).astype(np.float32, copy=False)


def _inputs(tensors: Sequence[Tensor | None]) -> list[Array | None]:
    return [None if x is None else _array(x) if x.dtype == ms.bool_ else _float(x) for x in tensors]


def _compute(build: Build, inputs: Sequence[Tensor | None], shape: Sequence[int], **options: Any) -> Tensor:
    """The float32 result, of this shape, of a graph of tensors; see `compute`."""
    (out,) = compute(build, _inputs(inputs), shape, **options)
    return Tensor.from_numpy(out)


# The graphs of these three see few axes, so that one graph serves tensors with any number of them.


def _one_by_one(build: Build, x: Tensor, **options: Any) -> Tensor:
    """A graph's result for each number of x alone."""
    values = _float(x)
    if values.flags.c_contiguous:
        values = values.reshape(-1)
    (out,) = compute(build, (values,), values.shape, **options)
    return Tensor.from_numpy(out.reshape(x.shape))


def _by_rows(
    build: Build,
    x: Tensor,
    parameters: Sequence[Tensor | None],
    broadcast: Sequence[Tensor | None] = (),
    size: int | None = None,
    **options: Any,
) -> Tensor:
    """A graph's result (..., size) for each row of x (..., D), given as (N, D); `size` is D by default.

    What is in `broadcast` broadcasts to x, which then keeps its axes.
    """
    values, size = _float(x), x.shape[-1] if size is None else size
    if values.flags.c_contiguous and all(other is None for other in broadcast):
        values = values.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    inputs = (values, *_inputs(parameters), *_inputs(broadcast))
    (out,) = compute(build, inputs, (*values.shape[:-1], size), **options)
    return Tensor.from_numpy(out.reshape(*x.shape[:-1], size))


def _by_channels(
    build: Build, x: Tensor, others: Sequence[Tensor | None], channels: int | None = None, **options: Any
) -> Tensor:
    """A graph's result (B, channels, ...) for x (B, C, ...), given as (B, C, N).

    `channels` is C if it is not given.
    """
    # A view of pixels before channels stays a view; what cannot be one is copied.
    values = _float(x).reshape(*x.shape[:2], math.prod(x.shape[2:]))
    first = x.shape[1] if channels is None else channels
    (out,) = compute(build, (values, *_inputs(others)), (x.shape[0], first, values.shape[2]), **options)
    return Tensor.from_numpy(out.reshape(x.shape[0], first, *x.shape[2:]))


def _broadcast(build: Build, *terms: Tensor | float) -> Tensor:
    """The float32 result of a graph whose terms broadcast."""
    arrays = [_float(t) if isinstance(t, Tensor) else np.array(t, np.float32) for t in terms]
    (out,) = compute(build, arrays, np.broadcast_shapes(*(a.shape for a in arrays)))
    return Tensor.from_numpy(out)


# Parts of graphs. --------------------------------------------------------------------------------


def _mvn(x: Node, axis: int, eps: float) -> Node:
    """x minus its mean over an axis, divided by its deviation."""
    return op.mvn(x, _ints(axis), True, eps, "inside_sqrt")


def _grouped(x: Node, groups: int) -> Node:
    """x (B, C, ...) as (B, groups, all other axes)."""
    return op.reshape(x, _ints(0, groups, -1), True)


def _affine(x: Node, weight: Node | None, bias: Node | None) -> Node:
    x = x if weight is None else op.multiply(x, weight)
    return x if bias is None else op.add(x, bias)


def _modulated(x: Node, scale: Node | None, shift: Node | None) -> Node:
    return _affine(x, None if scale is None else op.add(scale, _number(1)), shift)


def _by_channel(values: Node | None, x: Node) -> Node | None:
    """Values (C,) in a shape that broadcasts to x (B, C, ...)."""
    if values is None:
        return None
    return op.reshape(values, _ints(-1, *[1] * (len(x.output(0).get_partial_shape()) - 2)), False)


def _ints(*values: int) -> Node:
    return op.constant(np.array(values, np.int64))


def _number(value: float) -> Node:
    return op.constant(np.float32(value))
