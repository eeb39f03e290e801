"""The functions on the CPU, on memory shared with MindSpore's tensors (`asnumpy`, `from_numpy` alias it).

Attention and convolution are OpenVINO's (`cpu_graphs`): MindSpore's own are several times slower, and its
convolutions use oneDNN's reference kernel on AVX-512. Products are NumPy's (OpenBLAS), and so is what is
bound by memory: blocks that stay in the cache are faster there than OpenVINO's kernels.

The same input gives the same bits with any number of threads. OpenVINO's kernels were found to keep that;
NumPy's work is cut into jobs by shape alone, and one thread computes a job.
"""

from __future__ import annotations

import ctypes
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, mint

from vidgen_dist.nn.cpu_graphs import Build, Node, compute, dense, op
from vidgen_dist.nn.cpu_jobs import Array, blocks, each, empty, scratch, slices

_NUMPY_DTYPES: dict[Any, Any] = {
    ms.bool_: np.bool_,
    ms.uint8: np.uint8,
    ms.int32: np.int32,
    ms.int64: np.int64,
    ms.float16: np.float16,
    ms.float32: np.float32,
    ms.float64: np.float64,
}

# Elements in a job of elementwise work: 256 KiB of float32, so that input and output fit into L2.
_BLOCK = 65536


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., I) times weight (O, I) transposed, plus bias (O,)."""
    rows = _array(x)
    out = empty((*rows.shape[:-1], weight.shape[0]))
    _gemm(
        rows.reshape(-1, rows.shape[-1]),
        _array(weight).T,
        out.reshape(-1, out.shape[-1]),
        None if bias is None else _array(bias),
    )
    return Tensor.from_numpy(out)


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """a (..., N, K) times b (..., K, M), leading axes broadcast."""
    left, right = _array(a), _array(b)
    if right.ndim == 2 and left.ndim >= 2:
        out = empty((*left.shape[:-1], right.shape[-1]))
        _gemm(left.reshape(-1, left.shape[-1]), right, out.reshape(-1, out.shape[-1]), None)
        return Tensor.from_numpy(out)
    lead = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    left = np.broadcast_to(left, (*lead, *left.shape[-2:]))
    right = np.broadcast_to(right, (*lead, *right.shape[-2:]))
    out = empty((*lead, left.shape[-2], right.shape[-1]))
    each(np.ndindex(*lead), lambda at: np.matmul(left[at], right[at], out=out[at]))
    return Tensor.from_numpy(out)


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
    # Means as products with a vector: for short rows several times faster than mean().
    mean_of = np.full(x.shape[-1], 1 / x.shape[-1], np.float32)

    def normalise(source: Array, y: Array) -> None:
        np.subtract(source, (source @ mean_of)[..., None], out=y)
        variance = np.square(y, out=scratch("square", y.shape)) @ mean_of
        y *= (1 / np.sqrt(variance + np.float32(eps)))[..., None]

    return _normed(x, normalise, weight, bias, scale, shift)


def rms_norm(
    x: Tensor, weight: Tensor | None, eps: float, scale: Tensor | None, shift: Tensor | None
) -> Tensor:
    """Divide by the root mean square over the last axis, then scale and shift."""
    mean_of = np.full(x.shape[-1], 1 / x.shape[-1], np.float32)

    def normalise(source: Array, y: Array) -> None:
        square = np.square(source, out=scratch("square", source.shape)) @ mean_of
        np.multiply(source, (1 / np.sqrt(square + np.float32(eps)))[..., None], out=y)

    return _normed(x, normalise, weight, None, scale, shift)


def _normed(
    x: Tensor,
    normalise: Callable[[Array, Array], None],
    weight: Tensor | None,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
) -> Tensor:
    """What `normalise` makes of rows of x, times `weight` and 1 + `scale`, plus `bias` and `shift`."""
    source = _contiguous(x)
    out = empty(source.shape)
    gain, offset = _optional(weight), _optional(bias)
    factor, addend = (None if t is None else np.broadcast_to(_array(t), source.shape) for t in (scale, shift))

    def body(at: tuple[int | slice, ...]) -> None:
        y = out[at]
        normalise(source[at], y)
        if gain is not None:
            y *= gain
        if offset is not None:
            y += offset
        if factor is not None:
            y *= factor[at] + np.float32(1)
        if addend is not None:
            y += addend[at]

    each(blocks(source.shape[:-1], max(1, _BLOCK // source.shape[-1])), body)
    return Tensor.from_numpy(out)


def channel_rms_norm(x: Tensor, eps: float) -> Tensor:
    """Divide x (B, C, ...) by the root mean square over its channels, one block of places at a time."""
    source = _contiguous(x)
    batch, channels = source.shape[:2]
    places = source.reshape(batch, channels, -1)
    out = empty(places.shape)
    mean_of = np.full(channels, 1 / channels, np.float32)

    def normalise(job: tuple[int, slice]) -> None:
        b, block = job
        values = places[b, :, block]
        square = mean_of @ np.square(values, out=scratch("square", values.shape))
        np.multiply(values, 1 / np.sqrt(square + np.float32(eps)), out=out[b, :, block])

    step = max(1, _BLOCK // channels)
    each([(b, block) for b in range(batch) for block in slices(places.shape[2], step)], normalise)
    return Tensor.from_numpy(out.reshape(source.shape))


_SMALL_CLIP = 2**21
"""Up to this many numbers a clip, all channels together, OpenVINO's kernel is the faster one."""


def group_norm(x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Normalise x (B, C, ...) over each group of C / groups channels and all axes after them."""
    if math.prod(x.shape[1:]) <= _SMALL_CLIP:
        return _compute(_group_norm, (x, weight, bias), x.shape, groups=groups, eps=eps)
    grouped = _grouped(x, groups)
    out = empty(grouped.shape)
    affine = (_optional(weight), _optional(bias))

    def body(at: tuple[int, int]) -> None:
        # Both passes in one job: the second finds a small group still in the cache.
        _normalise_group(grouped[at], out[at], _moments(grouped[at]), at[1], affine, eps)

    each(np.ndindex(*grouped.shape[:2]), body)
    return Tensor.from_numpy(out.reshape(x.shape))


def _group_norm(x: Node, weight: Node | None, bias: Node | None, *, groups: int, eps: float) -> Node:
    normed = op.mvn(op.reshape(x, _ints(0, groups, -1), True), _ints(2), True, eps, "inside_sqrt")
    normed = op.reshape(normed, op.shape_of(x), False)
    return _affine(normed, _by_channel(weight, x), _by_channel(bias, x))


def group_moments(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and variance (B, groups) of each group of x (B, C, ...)."""
    grouped = _grouped(x, groups)
    moments = np.empty((2, *grouped.shape[:2]), np.float32)

    def body(at: tuple[int, int]) -> None:
        moments[:, *at] = _moments(grouped[at])

    each(np.ndindex(*grouped.shape[:2]), body)
    return Tensor.from_numpy(moments[0]), Tensor.from_numpy(moments[1])


def group_norm_with(
    x: Tensor,
    groups: int,
    mean: Tensor,
    variance: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    """`group_norm` with given moments (B, groups)."""
    grouped = _grouped(x, groups)
    out = empty(grouped.shape)
    means, variances = _array(mean), _array(variance)
    affine = (_optional(weight), _optional(bias))

    def body(at: tuple[int, int]) -> None:
        _normalise_group(grouped[at], out[at], (means[at], variances[at]), at[1], affine, eps)

    each(np.ndindex(*grouped.shape[:2]), body)
    return Tensor.from_numpy(out.reshape(x.shape))


def silu(x: Tensor) -> Tensor:
    """x times its sigmoid."""

    def body(a: Array, y: Array) -> None:
        with np.errstate(over="ignore"):  # exp(-x) may be infinite: the quotient is then 0, which is right
            np.negative(a, out=y)
            np.exp(y, out=y)
            y += np.float32(1)
            np.divide(a, y, out=y)

    return _elementwise(x, body)


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x))."""

    def body(a: Array, y: Array) -> None:
        with np.errstate(over="ignore"):
            np.negative(a, out=y)
            np.exp(y, out=y)
            y += np.float32(1)
            np.reciprocal(y, out=y)

    return _elementwise(x, body)


def tanh(x: Tensor) -> Tensor:
    """Hyperbolic tangent; MindSpore's own has an error of 1e-4."""
    return _elementwise(x, lambda a, y: np.tanh(a, out=y))


def exp(x: Tensor) -> Tensor:
    """e to the x; MindSpore's own has a relative error of 2e-5."""
    return _elementwise(x, lambda a, y: np.exp(a, out=y))


def sin(x: Tensor) -> Tensor:
    """Sine of x in radians."""
    return _elementwise(x, lambda a, y: np.sin(a, out=y))


def cos(x: Tensor) -> Tensor:
    """Cosine of x in radians."""
    return _elementwise(x, lambda a, y: np.cos(a, out=y))


def clip(x: Tensor, low: float | None, high: float | None) -> Tensor:
    """x, no smaller than low and no larger than high."""
    return _elementwise(x, lambda a, y: np.clip(a, low, high, out=y))


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU by its tanh approximation (Hendrycks and Gimpel, 2016)."""
    root = np.float32(np.sqrt(2 / np.pi))
    cubic = np.float32(0.044715) * root

    def body(a: Array, y: Array) -> None:
        np.multiply(a, a, out=y)
        y *= cubic
        y += root
        y *= a
        np.tanh(y, out=y)
        y += np.float32(1)
        y *= a
        y *= np.float32(0.5)

    return _elementwise(x, body)


def gelu_erf(x: Tensor) -> Tensor:
    """GELU by the error function."""
    return _compute(op.gelu, (x,), x.shape, approximation_mode="erf")


def add(x: Tensor, y: Tensor | float) -> Tensor:
    """x + y."""
    return _broadcast([x, y], lambda out, a, b: np.add(a, b, out=out))


def multiply(x: Tensor, y: Tensor | float) -> Tensor:
    """x * y."""
    return _broadcast([x, y], lambda out, a, b: np.multiply(a, b, out=out))


def multiply_add(x: Tensor, factor: Tensor, addend: Tensor) -> Tensor:
    """x * factor + addend; MindSpore's own kernels are slow where a factor is broadcast."""

    def body(out: Array, left: Array, right: Array, added: Array) -> None:
        np.multiply(left, right, out=out)
        out += added

    return _broadcast([x, factor, addend], body)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, swap: Tensor) -> Tensor:
    """x * cos + (x @ swap) * sin."""
    return _compute(_rotate, (x, cos, sin, swap), x.shape)


def _rotate(x: Node, cos: Node, sin: Node, swap: Node) -> Node:
    return op.add(op.multiply(x, cos), op.multiply(op.matmul(x, swap, False, False), sin))


def cat(tensors: Sequence[Tensor], axis: int) -> Tensor:
    """Concatenate tensors along an axis."""
    arrays = [_array(t) for t in tensors]
    rank = arrays[0].ndim
    axis %= rank
    if any(a.dtype != np.float32 for a in arrays):
        return Tensor.from_numpy(np.concatenate(arrays, axis))
    if any(a.ndim != rank or _without(a.shape, axis) != _without(arrays[0].shape, axis) for a in arrays):
        raise ValueError(f"tensors of shapes {[a.shape for a in arrays]} do not join along axis {axis}")
    ends = list(itertools.accumulate(a.shape[axis] for a in arrays))
    shape = (*arrays[0].shape[:axis], ends[-1], *arrays[0].shape[axis + 1 :])
    out = empty(shape)
    jobs = []
    for array, end in zip(arrays, ends, strict=True):
        place = out[(slice(None),) * axis + (slice(end - array.shape[axis], end),)]
        jobs += [(place[at], array[at]) for at in blocks(array.shape, _BLOCK)]
    each(jobs, lambda job: np.copyto(*job))
    return Tensor.from_numpy(out)


def split(x: Tensor, sizes: Sequence[int], axis: int) -> tuple[Tensor, ...]:
    """Pieces of x along an axis: views, but copies of small pieces, for the operators that follow."""
    pieces = mint.split(x, list(sizes), axis)
    return tuple(p if p.is_contiguous() or p.size > _BLOCK else copy(p) for p in pieces)


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
    if x.dtype not in _NUMPY_DTYPES:
        return x.copy()
    source = _array(x)
    if source.dtype == np.float32 and source.ndim and source.strides[-1] != source.itemsize:
        _, order = dense(source)
        if order is not None:
            # Where neighbours do not stay neighbours, NumPy copies them one by one.
            return _compute(_same, (x,), x.shape)
    out = empty(source.shape) if source.dtype == np.float32 else np.empty(source.shape, source.dtype)
    each(blocks(source.shape, _BLOCK), lambda at: np.copyto(out[at], source[at]))
    return Tensor.from_numpy(out)


def _same(x: Node) -> Node:
    return x


def zeros(shape: tuple[int, ...], dtype: Any) -> Tensor:
    """A tensor of 0; MindSpore's own kernel wakes the threads that `copy` describes."""
    if dtype not in _NUMPY_DTYPES:
        return mint.zeros(shape, dtype=dtype)
    return Tensor.from_numpy(np.zeros(shape, _NUMPY_DTYPES[dtype]))


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape[:axis] + shape[axis + 1 :]


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
    # The operator scales by 1 / sqrt(D); without a mask it ignores another scale that it is given.
    gain = round(scale * math.sqrt(q.shape[-1]), 12)
    # Of the three, only transposed keys cost the operator more than a copy does.
    return _compute(_attention, (q, copy(k), v, mask, bias), shape, gain=gain).transpose(0, 2, 1, 3)


def _attention(q: Node, k: Node, v: Node, mask: Node | None, bias: Node | None, *, gain: float) -> Node:
    added = mask if bias is None else bias
    if mask is not None and bias is not None:
        added = op.select(mask, bias, _number(-np.inf))
    if gain != 1:
        q = op.multiply(q, _number(gain))
    out = op.scaled_dot_product_attention(q, k, v, added)
    if mask is not None:
        out = op.select(op.reduce_logical_or(mask, _ints(-1), True), out, _number(0))
    return _frames_before_heads(out)


_SCORES = 2**22
"""Scores in one call of `attention_with_lse`, which keeps them in memory."""


def attention_with_lse(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """As `attention`, and each query's log-sum-exp of scores (B, heads, N)."""
    queries, keys, values = _array(q), _array(k), _array(v)
    batch, heads, n, _ = queries.shape
    allowed = None if mask is None else np.broadcast_to(_array(mask), (batch, 1, n, keys.shape[2]))
    out, lse = empty((batch, n, heads, values.shape[-1])), empty((batch, heads, n))
    for rows in slices(n, max(1, _SCORES // (batch * heads * keys.shape[2]))):
        inputs = (queries[:, :, rows], keys, values, None if allowed is None else allowed[:, :, rows])
        shapes = (out[:, rows].shape, lse[:, :, rows].shape)
        out[:, rows], lse[:, :, rows] = compute(_attention_with_lse, inputs, *shapes, scale=scale)
    return Tensor.from_numpy(out).transpose(0, 2, 1, 3), Tensor.from_numpy(lse)


def _attention_with_lse(q: Node, k: Node, v: Node, mask: Node | None, *, scale: float) -> tuple[Node, Node]:
    scores = op.matmul(op.multiply(q, _number(scale)), k, False, True)
    if mask is not None:
        # Finite, so that a query without keys has no infinity minus infinity.
        scores = op.select(mask, scores, _number(float(np.finfo(np.float32).min)))
    top = op.reduce_max(scores, _ints(-1), True)
    weights = op.exp(op.subtract(scores, top))
    total = op.reduce_sum(weights, _ints(-1), True)
    out = op.divide(op.matmul(weights, v, False, False), total)
    lse = op.add(op.log(total), top)
    if mask is not None:
        some = op.reduce_logical_or(mask, _ints(-1), True)
        out, lse = op.select(some, out, _number(0)), op.select(some, lse, _number(-np.inf))
    return _frames_before_heads(out), op.squeeze(lse, _ints(-1))


def _frames_before_heads(x: Node) -> Node:
    return op.transpose(x, _ints(0, 2, 1, 3))


def merge_attention(out: Tensor, lse: Tensor, other_out: Tensor, other_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Attention to all keys, from attention to some of them and to the others."""
    # (B, N, heads, ...): the layout of `attention`'s result.
    first, second = (_array(x).transpose(0, 2, 1, 3) for x in (out, other_out))
    a, b = (_array(x).transpose(0, 2, 1) for x in (lse, other_lse))
    merged, total = empty(first.shape), empty(a.shape)

    def body(job: tuple[int, slice]) -> None:
        with np.errstate(invalid="ignore"):  # both are -inf: there is no key to attend to on either side
            np.logaddexp(a[job], b[job], out=total[job])
            weights = [np.nan_to_num(np.exp(x[job] - total[job]), nan=0.0)[..., None] for x in (a, b)]
        y = np.multiply(first[job], weights[0], out=merged[job])
        y += second[job] * weights[1]

    batch, n = a.shape[:2]
    step = max(1, _BLOCK // max(1, math.prod(first.shape[2:])))
    each([(i, rows) for i in range(batch) for rows in slices(n, step)], body)
    return Tensor.from_numpy(merged).transpose(0, 2, 1, 3), Tensor.from_numpy(total).transpose(0, 2, 1)


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
        return Tensor.from_numpy(_pointwise(_array(x), _array(weight), _optional(bias)).reshape(shape))
    options = {"stride": tuple(stride), "padding": tuple(padding)}
    return _compute(_convolution, (x, weight, bias), shape, fixed=(1,), **options)


def _pointwise(x: Array, weight: Array, bias: Array | None) -> Array:
    """A convolution by a kernel of one point: x (B, I, ...) to (B, O, places)."""
    pixels = x.reshape(*x.shape[:2], -1)
    matrix = weight.reshape(len(weight), -1)
    out = empty((len(x), len(weight), pixels.shape[2]))

    def body(job: tuple[int, slice]) -> None:
        b, block = job
        y = np.matmul(matrix, pixels[b, :, block], out=out[b, :, block])
        if bias is not None:
            y += bias[:, None]

    each([(b, block) for b in range(len(x)) for block in slices(pixels.shape[2], 4096)], body)
    return out


def _convolution(
    x: Node, weight: Node, bias: Node | None, *, stride: tuple[int, ...], padding: tuple[int, ...]
) -> Node:
    out = op.convolution(x, weight, stride, padding, padding, [1] * len(stride))
    return _affine(out, None, _by_channel(bias, x))


def pad(x: Tensor, widths: Sequence[int], mode: str) -> Tensor:
    """Pad the last len(widths) / 2 axes, last axis first."""
    source = _array(x)
    pairs = [(0, 0)] * source.ndim
    for i in range(len(widths) // 2):
        pairs[-1 - i] = (widths[2 * i], widths[2 * i + 1])
    if source.ndim < 4 or any(map(any, pairs[:2])) or source.dtype != np.float32 or mode == "reflect":
        numpy_mode: Any = {"constant": "constant", "replicate": "edge", "reflect": "reflect"}[mode]
        return Tensor.from_numpy(np.pad(source, pairs, mode=numpy_mode))
    out = empty([before + n + after for n, (before, after) in zip(source.shape, pairs, strict=True)])
    each(np.ndindex(source.shape[:2]), lambda at: _fill(out[at], source[at], pairs[2:], mode))
    return Tensor.from_numpy(out)


def _fill(out: Array, source: Array, pairs: Sequence[tuple[int, int]], mode: str) -> None:
    """Write source to out with (before, after) added to each axis: zeros, or the edge repeated."""
    places = [slice(before, before + n) for n, (before, _) in zip(source.shape, pairs, strict=True)]
    out[tuple(places)] = source
    for axis, (before, after) in enumerate(pairs):
        # Axes that are done are filled completely, the others only where the source is.
        inside = places[axis]
        beyond = (
            (slice(0, before), inside.start),
            (slice(inside.stop, inside.stop + after), inside.stop - 1),
        )
        for place, edge in beyond:
            places[axis] = place
            target = out[tuple(places)]
            places[axis] = slice(edge, edge + 1)
            target[...] = out[tuple(places)] if mode == "replicate" else 0
        places[axis] = slice(None)


def take(x: Tensor, indices: Sequence[Array]) -> Tensor:
    """Take indices[i] along axis 2 + i of x (B, C, ...)."""
    source = _array(x)
    batch, channels = source.shape[:2]
    out = empty((batch, channels, *(len(index) for index in indices)))

    def body(at: tuple[int, ...]) -> None:
        picked = source[at]
        # Columns first, while there is little data: they are copied one by one, rows and frames as wholes.
        for axis in reversed(range(picked.ndim)):
            picked = np.take(picked, indices[axis], axis)
        out[at] = picked

    each(np.ndindex(batch, channels), body)
    return Tensor.from_numpy(out)


# Shared by the bodies above. ---------------------------------------------------------------------


def _array(x: Tensor) -> Array:
    """The tensor's values without a copy, with the tensor's strides; valid as long as the tensor lives."""
    if x.is_contiguous():
        array: Array = x.asnumpy()
        return array
    # asnumpy first makes a view contiguous, which is slow. (`Tensor.strides` ignores views, `stride()` does
    # not.)
    strides = [step * x.itemsize for step in x.stride()]
    extent = sum((n - 1) * step for n, step in zip(x.shape, strides, strict=True)) + x.itemsize
    memory = (ctypes.c_char * extent).from_address(x.data_ptr())
    return np.ndarray(x.shape, _NUMPY_DTYPES[x.dtype], memory, strides=strides)


def _contiguous(x: Tensor) -> Array:
    return np.ascontiguousarray(_array(x))


def _optional(x: Tensor | None) -> Array | None:
    return None if x is None else _array(x)


def _elementwise(x: Tensor, body: Callable[[Array, Array], Any]) -> Tensor:
    source = _contiguous(x)
    out = empty(source.shape)
    flat, flat_out = source.reshape(-1), out.reshape(-1)
    each(slices(flat.size, _BLOCK), lambda block: body(flat[block], flat_out[block]))
    return Tensor.from_numpy(out)


def _broadcast(terms: Sequence[Tensor | float], body: Callable[..., Any]) -> Tensor:
    """Call body(block of the result, broadcast blocks of the terms), one block at a time.

    Unless tensors are small, MindSpore's own operators wake threads that then spin for 0.2 s on the cores
    that we compute on.
    """
    arrays = [_array(t) if isinstance(t, Tensor) else np.array(t, np.float32) for t in terms]
    shape = np.broadcast_shapes(*(a.shape for a in arrays))
    out = empty(shape)
    whole = [np.broadcast_to(a, shape) for a in arrays]
    each(blocks(shape, _BLOCK), lambda at: body(out[at], *(a[at] for a in whole)))
    return Tensor.from_numpy(out)


def _compute(build: Build, inputs: Sequence[Tensor | None], shape: Sequence[int], **options: Any) -> Tensor:
    """The float32 result, of this shape, of a graph of tensors; see `compute`."""
    arrays = [None if x is None else _array(x) if x.dtype == ms.bool_ else _float(x) for x in inputs]
    (out,) = compute(build, arrays, shape, **options)
    return Tensor.from_numpy(out)


def _float(x: Tensor) -> Array:
    return _array(x).astype(np.float32, copy=False)


def _by_channel(values: Node | None, x: Node) -> Node | None:
    """Values (C,) in a shape that broadcasts to x (B, C, ...)."""
    if values is None:
        return None
    return op.reshape(values, _ints(-1, *[1] * (len(x.output(0).get_partial_shape()) - 2)), False)


def _affine(x: Node, weight: Node | None, bias: Node | None) -> Node:
    x = x if weight is None else op.multiply(x, weight)
    return x if bias is None else op.add(x, bias)


def _ints(*values: int) -> Node:
    return op.constant(np.array(values, np.int64))


def _number(value: float) -> Node:
    return op.constant(np.float32(value))


def _gemm(a: Array, b: Array, out: Array, bias: Array | None) -> None:
    """out = a @ b + bias for matrices, in blocks of rows, or of columns if there are few rows."""
    n, m = out.shape
    if n >= 128:
        step = int(np.clip(-(-n // 64) * 16, 128, 1024))
        jobs = [(rows, slice(0, m)) for rows in slices(n, step)]
    else:
        jobs = [(slice(0, n), columns) for columns in slices(m, 512)]

    def body(job: tuple[slice, slice]) -> None:
        rows, columns = job
        block = np.matmul(a[rows], b[:, columns], out=out[rows, columns])
        if bias is not None:
            block += bias[columns]

    each(jobs, body)


def _grouped(x: Tensor, groups: int) -> Array:
    """x (B, C, ...) as (B, groups, C / groups, all other axes)."""
    batch, channels = x.shape[:2]
    return _contiguous(x).reshape(batch, groups, channels // groups, -1)


def _moments(group: Array) -> tuple[np.float32, np.float32]:
    """Mean and variance of a contiguous array, in two passes; sums of blocks are added in float64."""
    values = group.reshape(-1)
    blocks = slices(values.size, _BLOCK)
    mean = np.float32(sum(float(values[block].sum()) for block in blocks) / values.size)
    total = 0.0
    for block in blocks:
        centred = values[block] - mean
        total += float(np.dot(centred, centred))
    return mean, np.float32(total / values.size)


def _normalise_group(
    group: Array,
    out: Array,
    moments: tuple[np.float32, np.float32],
    index: int,
    affine: tuple[Array | None, Array | None],
    eps: float,
) -> None:
    """Write the index-th group (C / groups, ...), normalised, to out; affine belongs to all channels."""
    mean, variance = (float(moment) for moment in moments)
    scale, shift = affine
    inverse = 1.0 / math.sqrt(variance + eps)
    first = index * len(group)
    for c in range(len(group)):
        gain = inverse if scale is None else inverse * float(scale[first + c])
        offset = -mean * gain + (0.0 if shift is None else float(shift[first + c]))
        np.multiply(group[c], np.float32(gain), out=out[c])
        out[c] += np.float32(offset)
