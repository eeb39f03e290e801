"""CPU bodies: NumPy on memory shared with MindSpore's tensors (`asnumpy` and `from_numpy` alias it).

MindSpore's own CPU kernels for norms, GELU, attention and convolution are several times slower than
blocks that stay in cache, and its convolutions fall to oneDNN's reference kernel on AVX-512. Work is
cut into jobs by shape alone, never by the number of threads, and each job is computed by one thread:
the same input gives the same bits whatever the thread count.
"""

from __future__ import annotations

import ctypes
import math
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor

from vidgen_dist.nn import backend

Array = np.ndarray[Any, Any]

_NUMPY_DTYPES: dict[Any, Any] = {
    ms.bool_: np.bool_,
    ms.uint8: np.uint8,
    ms.int32: np.int32,
    ms.int64: np.int64,
    ms.float16: np.float16,
    ms.float32: np.float32,
    ms.float64: np.float64,
}

# Elements a job of elementwise work takes: 256 KiB of float32, input and output together in L2.
_BLOCK = 65536


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., I) times weight (O, I) transposed, plus bias (O,)."""
    rows = _array(x)
    out = np.empty((*rows.shape[:-1], weight.shape[0]), np.float32)
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
        out = np.empty((*left.shape[:-1], right.shape[-1]), np.float32)
        _gemm(left.reshape(-1, left.shape[-1]), right, out.reshape(-1, out.shape[-1]), None)
        return Tensor.from_numpy(out)
    lead = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    left = np.broadcast_to(left, (*lead, *left.shape[-2:]))
    right = np.broadcast_to(right, (*lead, *right.shape[-2:]))
    out = np.empty((*lead, left.shape[-2], right.shape[-1]), np.float32)
    _each(np.ndindex(*lead), lambda at: np.matmul(left[at], right[at], out=out[at]))
    return Tensor.from_numpy(out)


def embedding(ids: Tensor, weight: Tensor) -> Tensor:
    """Rows of weight (V, D) by ids (...): (..., D)."""
    return Tensor.from_numpy(_array(weight)[_array(ids)])


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Normalise over the last axis."""
    rows, scale, shift = _contiguous(x), _optional(weight), _optional(bias)
    width = rows.shape[-1]
    source = rows.reshape(-1, width)
    out = np.empty_like(source)

    def normalise(block: slice) -> None:
        y = np.subtract(source[block], source[block].mean(-1, keepdims=True), out=out[block])
        variance = np.einsum("nd,nd->n", y, y)[:, None] / np.float32(width)
        y /= np.sqrt(variance + np.float32(eps))
        if scale is not None:
            y *= scale
        if shift is not None:
            y += shift

    _each(_slices(len(source), max(1, _BLOCK // width)), normalise)
    return Tensor.from_numpy(out.reshape(rows.shape))


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """Divide by the root mean square over the last axis."""
    rows, scale = _contiguous(x), _optional(weight)
    width = rows.shape[-1]
    source = rows.reshape(-1, width)
    out = np.empty_like(source)

    def normalise(block: slice) -> None:
        square = np.einsum("nd,nd->n", source[block], source[block])[:, None] / np.float32(width)
        y = np.divide(source[block], np.sqrt(square + np.float32(eps)), out=out[block])
        if scale is not None:
            y *= scale

    _each(_slices(len(source), max(1, _BLOCK // width)), normalise)
    return Tensor.from_numpy(out.reshape(rows.shape))


def group_norm(x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Normalise x (B, C, ...) over each group of C / groups channels and all that follows."""
    source, scale, shift = _contiguous(x), _optional(weight), _optional(bias)
    batch, channels = source.shape[:2]
    grouped = source.reshape(batch, groups, channels // groups, -1)
    out = np.empty_like(grouped)

    def normalise(at: tuple[int, ...]) -> None:
        group, y = grouped[at], out[at]
        mean, variance = _moments(group.reshape(-1))
        inverse = 1.0 / np.sqrt(variance + eps)
        first = at[1] * len(group)
        for c in range(len(group)):
            gain = inverse if scale is None else inverse * float(scale[first + c])
            offset = -mean * gain + (0.0 if shift is None else float(shift[first + c]))
            np.multiply(group[c], np.float32(gain), out=y[c])
            y[c] += np.float32(offset)

    _each(np.ndindex(batch, groups), normalise)
    return Tensor.from_numpy(out.reshape(source.shape))


def silu(x: Tensor) -> Tensor:
    """x times its sigmoid."""

    def body(a: Array, y: Array) -> None:
        with np.errstate(over="ignore"):  # exp(-x) may be infinite: the quotient is then 0, as it should be
            np.negative(a, out=y)
            np.exp(y, out=y)
            y += np.float32(1)
            np.divide(a, y, out=y)

    return _elementwise(x, body)


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
    """GELU by the error function, which Abramowitz and Stegun's 7.1.26 gives to 1.5e-7."""
    half = np.float32(np.sqrt(0.5))
    powers = [np.float32(c) for c in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)]

    def body(a: Array, y: Array) -> None:
        z = np.abs(a)
        z *= half
        t = z * np.float32(0.3275911)
        t += np.float32(1)
        np.reciprocal(t, out=t)
        np.multiply(t, powers[0], out=y)
        for power in powers[1:]:
            y += power
            y *= t
        np.multiply(z, z, out=z)
        np.negative(z, out=z)
        np.exp(z, out=z)
        y *= z  # 1 - erf(|x| / sqrt 2): twice the weight of the tail
        # x >= 0: x - x * tail; x < 0: x * tail. Both are max(x, 0) - |x| * tail.
        np.abs(a, out=z)
        y *= z
        y *= np.float32(-0.5)
        y += np.maximum(a, np.float32(0), out=z)

    return _elementwise(x, body)


def multiply_add(x: Tensor, factor: Tensor, addend: Tensor) -> Tensor:
    """x * factor + addend; MindSpore's own kernels are slow where a factor broadcasts."""
    arrays = [_array(t) for t in (x, factor, addend)]
    shape = np.broadcast_shapes(*(a.shape for a in arrays))
    out = np.empty(shape, np.float32)
    left, right, added = (np.broadcast_to(a, shape) for a in arrays)
    # Blocks along the two first axes, which in (B, N, D) and (B, C, T, H, W) are long enough to share out.
    step = max(1, _BLOCK // max(1, math.prod(shape[2:])))
    lead = shape[:2]
    jobs = [(b, rows) for b in range(lead[0]) for rows in _slices(lead[1], step)] if len(lead) == 2 else [...]

    def body(at: Any) -> None:
        y = np.multiply(left[at], right[at], out=out[at])
        y += added[at]

    _each(jobs, body)
    return Tensor.from_numpy(out)


def cat(tensors: Sequence[Tensor], axis: int) -> Tensor:
    """Tensors one after another along an axis."""
    return Tensor.from_numpy(np.concatenate([_array(t) for t in tensors], axis))


def softmax(x: Tensor, axis: int) -> Tensor:
    """Exponentials over `axis` that sum to 1; the largest is taken off first."""
    source = np.moveaxis(_array(x), axis, -1)
    rows = np.ascontiguousarray(source).reshape(-1, source.shape[-1])
    out = np.empty_like(rows)

    def body(block: slice) -> None:
        y = np.subtract(rows[block], rows[block].max(-1, keepdims=True), out=out[block])
        np.exp(y, out=y)
        y /= y.sum(-1, keepdims=True)

    _each(_slices(len(rows), max(1, _BLOCK // rows.shape[-1])), body)
    return Tensor.from_numpy(np.ascontiguousarray(np.moveaxis(out.reshape(source.shape), -1, axis)))


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor | None, scale: float
) -> Tensor:
    """Softmax attention, block of queries by block: scores never leave the cache.

    A row that may attend to nothing gives 0.
    """
    queries, keys, values = _array(q), _array(k), _array(v)
    batch, heads, n = queries.shape[:3]
    m = keys.shape[2]
    allowed = None if mask is None else np.broadcast_to(_array(mask), (batch, heads, n, m))
    added = None if bias is None else np.broadcast_to(_array(bias), (batch, heads, n, m))
    # (B, N, heads, D) in memory: what every caller turns the result into is then a view.
    out = np.empty((batch, n, heads, values.shape[-1]), np.float32)
    step = int(np.clip(2**19 // m // 16 * 16, 16, 512))

    def body(job: tuple[int, int, slice]) -> None:
        b, h, block = job
        query = queries[b, h, block] * np.float32(scale)
        scores = _scratch("scores", (len(query), m))
        np.matmul(query, keys[b, h].T, out=scores)
        if added is not None:
            scores += added[b, h, block]
        if allowed is not None:
            np.copyto(scores, -np.inf, where=~allowed[b, h, block])
        top = scores.max(-1, keepdims=True)
        if allowed is not None or added is not None:
            top[np.isneginf(top)] = 0
        scores -= top
        np.exp(scores, out=scores)
        total = scores.sum(-1, keepdims=True)
        if allowed is not None or added is not None:
            total[total == 0] = 1
        result = np.matmul(scores, values[b, h])
        np.divide(result, total, out=out[b, block, h])

    _each(((b, h, block) for b, h in np.ndindex(batch, heads) for block in _slices(n, step)), body)
    return Tensor.from_numpy(out).transpose(0, 2, 1, 3)


def conv3d(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    """x (B, I, T, H, W), weight (O, I, kT, kH, kW); zero padding before and after each axis."""
    return Tensor.from_numpy(_conv3d(_array(x), _array(weight), _optional(bias), stride, padding))


def conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    """x (B, I, H, W), weight (O, I, kH, kW): a `conv3d` of one frame."""
    frames, kernel = _array(x)[:, :, None], _array(weight)[:, :, None]
    out = _conv3d(frames, kernel, _optional(bias), (1, *stride), (0, *padding))
    return Tensor.from_numpy(out[:, :, 0])


def pad(x: Tensor, widths: Sequence[int], mode: str) -> Tensor:
    """Pad the last len(widths) / 2 axes, last axis first."""
    source = _array(x)
    pairs = [(0, 0)] * source.ndim
    for i in range(len(widths) // 2):
        pairs[-1 - i] = (widths[2 * i], widths[2 * i + 1])
    numpy_mode: Any = {"constant": "constant", "replicate": "edge", "reflect": "reflect"}[mode]
    return Tensor.from_numpy(np.pad(source, pairs, mode=numpy_mode))


def take(x: Tensor, indices: Sequence[Array]) -> Tensor:
    """Take indices[i] along axis 2 + i of x (B, C, ...)."""
    out = _array(x)
    for axis, index in enumerate(indices, start=2):
        out = np.take(out, index, axis=axis)
    return Tensor.from_numpy(out)


# The convolution. ------------------------------------------------------------------------------


def _conv3d(
    x: Array, weight: Array, bias: Array | None, stride: Sequence[int], padding: Sequence[int]
) -> Array:
    """Convolution as matrix products over columns of one block of rows at a time.

    A job is a block of output rows of one video; it walks over the frames and keeps the columns
    (I * kH * kW, pixels) of the last kT input frames, so that every input frame is unfolded once.
    """
    batch, inputs, *size = x.shape
    outputs, _, kt, kh, kw = weight.shape
    st, sh, sw = stride
    pt, ph, pw = padding
    ot, oh, ow = (
        (n + 2 * p - k) // s + 1 for n, p, k, s in zip(size, padding, (kt, kh, kw), stride, strict=True)
    )
    out = np.empty((batch, outputs, ot, oh, ow), np.float32)
    taps = [np.ascontiguousarray(weight[:, :, t].reshape(outputs, -1)) for t in range(kt)]
    rows_a_job = max(1, min(oh, 768 // ow))

    def body(job: tuple[int, slice]) -> None:
        b, rows = job
        count = min(rows.stop, oh) - rows.start
        pixels = count * ow
        columns = _scratch("columns", (kt, inputs * kh * kw, pixels))
        padded = _scratch("padded", (inputs, (count - 1) * sh + kh, size[2] + 2 * pw))
        total = _scratch("total", (outputs, pixels))
        product = _scratch("product", (outputs, pixels))
        unfolded = -1  # the last input frame whose columns are there
        for t in range(ot):
            first = True
            for tap in range(kt):
                frame = t * st + tap - pt
                if not 0 <= frame < size[0]:
                    continue
                slot = columns[frame % kt]
                if frame > unfolded:
                    _fill_padded(padded, x[b, :, frame], rows.start * sh - ph, pw)
                    _unfold(padded, slot.reshape(inputs, kh, kw, count, ow), sh, sw)
                    unfolded = frame
                np.matmul(taps[tap], slot, out=total if first else product)
                if not first:
                    np.add(total, product, out=total)
                first = False
            if first:
                total.fill(0)
            target = out[b, :, t, rows]
            if bias is None:
                target[...] = total.reshape(target.shape)
            else:
                np.add(total.reshape(target.shape), bias[:, None, None], out=target)

    _each(((b, rows) for b in range(batch) for rows in _slices(oh, rows_a_job)), body)
    return out


def _fill_padded(padded: Array, frame: Array, top: int, left: int) -> None:
    """Copy rows top, top + 1, ... of frame (C, H, W) into padded (C, R, W + 2 * left), 0 outside."""
    height, width = frame.shape[1:]
    begin, end = max(top, 0), min(top + padded.shape[1], height)
    if left or begin != top or end != top + padded.shape[1]:
        padded.fill(0)
    if end > begin:
        padded[:, begin - top : end - top, left : left + width] = frame[:, begin:end]


def _unfold(padded: Array, columns: Array, sh: int, sw: int) -> None:
    """Columns (C, kH, kW, rows, W') of padded (C, R, W)."""
    _, kh, kw, rows, width = columns.shape
    for i in range(kh):
        for j in range(kw):
            columns[:, i, j] = padded[:, i : i + (rows - 1) * sh + 1 : sh, j : j + (width - 1) * sw + 1 : sw]


# Shared by the bodies above. ---------------------------------------------------------------------


def _array(x: Tensor) -> Array:
    """The tensor's values without a copy, strided as the tensor is; for as long as the tensor lives."""
    if x.is_contiguous():
        array: Array = x.asnumpy()
        return array
    # asnumpy makes a view contiguous first, slowly. (`Tensor.strides` is blind to views, `stride()` is not.)
    strides = [step * x.itemsize for step in x.stride()]
    extent = sum((n - 1) * step for n, step in zip(x.shape, strides, strict=True)) + x.itemsize
    memory = (ctypes.c_char * extent).from_address(x.data_ptr())
    return np.ndarray(x.shape, _NUMPY_DTYPES[x.dtype], memory, strides=strides)


def _contiguous(x: Tensor) -> Array:
    return np.ascontiguousarray(_array(x))


def _optional(x: Tensor | None) -> Array | None:
    return None if x is None else _array(x)


def _each(jobs: Iterable[Any], body: Callable[[Any], Any]) -> None:
    """Run body on every job, over the compute threads; an exception ends the rest and is raised."""
    listed = list(jobs)
    backend_now = backend.current()
    workers = min(backend_now.threads, len(listed))
    if backend_now.pool is None or workers < 2:
        for job in listed:
            body(job)
        return
    # One task a thread, each taking the next job from a shared iterator: a future a job costs more
    # than a small job does.
    queue = iter(listed)

    def work() -> None:
        for job in queue:
            body(job)

    helpers = [backend_now.pool.submit(work) for _ in range(workers - 1)]
    try:
        work()
    finally:
        for _ in queue:  # after a failure here, leave nothing to the others
            pass
        done = [helper.exception() for helper in helpers]
    for failure in done:
        if failure is not None:
            raise failure


def _slices(length: int, step: int) -> list[slice]:
    return [slice(i, min(i + step, length)) for i in range(0, length, step)]


def _elementwise(x: Tensor, body: Callable[[Array, Array], None]) -> Tensor:
    source = _contiguous(x)
    out = np.empty_like(source)
    flat, flat_out = source.reshape(-1), out.reshape(-1)
    _each(_slices(flat.size, _BLOCK), lambda block: body(flat[block], flat_out[block]))
    return Tensor.from_numpy(out)


def _gemm(a: Array, b: Array, out: Array, bias: Array | None) -> None:
    """out = a @ b + bias for matrices, in blocks of rows, or of columns where there are few rows."""
    n, m = out.shape
    if n >= 128:
        jobs = [(rows, slice(0, m)) for rows in _slices(n, 512)]
    else:
        jobs = [(slice(0, n), columns) for columns in _slices(m, 512)]

    def body(job: tuple[slice, slice]) -> None:
        rows, columns = job
        block = np.matmul(a[rows], b[:, columns], out=out[rows, columns])
        if bias is not None:
            block += bias[columns]

    _each(jobs, body)


def _moments(values: Array) -> tuple[float, float]:
    """Mean and variance of a flat array, two passes, block sums added in float64."""
    blocks = _slices(values.size, _BLOCK)
    mean = sum(float(values[block].sum()) for block in blocks) / values.size
    total = 0.0
    for block in blocks:
        centred = values[block] - np.float32(mean)
        total += float(np.dot(centred, centred))
    return mean, total / values.size


_local = threading.local()


def _scratch(name: str, shape: tuple[int, ...]) -> Array:
    """This thread's buffer of that name, grown to shape; what it holds is not defined."""
    needed = math.prod(shape)
    buffer = getattr(_local, name, None)
    if buffer is None or buffer.size < needed:
        buffer = np.empty(needed, np.float32)
        setattr(_local, name, buffer)
    return buffer[:needed].reshape(shape)
