"""Functions that layers are made of, with a CPU and an Ascend version where these differ.

Letters in shapes: B batch, C/I/O channels, T frames, H rows, W columns, N queries, M keys, D features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from mindspore import Tensor, mint, ops

from vidgen_dist.nn import backend

PAD_MODES = ("constant", "replicate", "reflect")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., I) times weight (O, I) transposed, plus bias (O,): (..., O)."""
    return backend.current().body.linear(x, weight, bias)


def activated_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str, gated: bool = False
) -> Tensor:
    """`linear`, then an activation: in one pass on the CPU.

    With `gated`, the first half of the O results is multiplied by the activation of the second (Shazeer 2020,
    arXiv:2002.05202): (..., O / 2).

    Args:
        x, weight, bias: As in `linear`.
        activation: `silu`, `gelu`, `gelu_tanh` or `gelu_sigmoid`, functions of `nn.activations`.
        gated: Whether half of the results are gates.
    """
    return backend.current().body.activated_linear(x, weight, bias, activation, gated)


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """a (..., N, K) times b (..., K, M): (..., N, M), leading axes broadcast."""
    return backend.current().body.matmul(a, b)


def embedding(ids: Tensor, weight: Tensor) -> Tensor:
    """Look rows of weight (V, D) up by integer ids (...): (..., D)."""
    return backend.current().body.embedding(ids, weight)


def layer_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    """Normalise x (..., D) over its last axis, times weight (D,), plus bias (D,). Ba et al., 2016.

    With `scale` and `shift`, which broadcast to x, the result is then times 1 + scale, plus shift: the
    adaptive norm of diffusion transformers (Peebles and Xie, 2023).
    """
    return backend.current().body.layer_norm(x, weight, bias, eps, scale, shift)


def rms_norm(
    x: Tensor,
    weight: Tensor | None = None,
    eps: float = 1e-6,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    """Divide x (..., D) by its root mean square over the last axis, times weight (D,).

    Zhang and Sennrich, 2019. `scale` and `shift` are as in `layer_norm`.
    """
    return backend.current().body.rms_norm(x, weight, eps, scale, shift)


def channel_rms_norm(x: Tensor, eps: float) -> Tensor:
    """Divide x (B, C, ...) at every place by the root mean square of its channels there."""
    return backend.current().body.channel_rms_norm(x, eps)


def group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    silu: bool = False,
) -> Tensor:
    """Normalise x (B, C, ...) over each of num_groups groups of channels. Wu and He, 2018.

    With `silu`, the result is activated as by that function, on the CPU in the same pass.

    Raises:
        ValueError: The groups do not divide the channels.
    """
    if x.shape[1] % num_groups:
        raise ValueError(f"{num_groups} groups do not divide {x.shape[1]} channels")
    return backend.current().body.group_norm(x, num_groups, weight, bias, eps, silu)


def group_moments(x: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of x (B, C, ...), each (B, num_groups) float32, over each of num_groups groups of
    channels and all axes after them."""
    return backend.current().body.group_moments(x, num_groups)


def group_norm_with(
    x: Tensor,
    num_groups: int,
    mean: Tensor,
    variance: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    silu: bool = False,
) -> Tensor:
    """`group_norm` with given moments, each (B, num_groups) float32, of a tensor that x is a part of."""
    return backend.current().body.group_norm_with(x, num_groups, mean, variance, weight, bias, eps, silu)


def silu(x: Tensor) -> Tensor:
    """x times its sigmoid."""
    return backend.current().body.silu(x)


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """GELU (Hendrycks and Gimpel, 2016): exact ("none"), or by tanh ("tanh")."""
    if approximate == "tanh":
        return backend.current().body.gelu_tanh(x)
    if approximate == "none":
        return backend.current().body.gelu_erf(x)
    raise ValueError(f"approximate: {approximate!r} is not allowed; 'tanh' or 'none'")


def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """Exponentials of x, scaled so that they sum to 1 over `axis`."""
    return backend.current().body.softmax(x, axis)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Softmax attention (Vaswani et al., 2017).

    Args:
        q: Queries (B, heads, N, D).
        k, v: Keys and values (B, heads, M, D).
        mask: Booleans (.., N or 1, M) that broadcast to (B, heads, N, M); True attends. A query that may
            attend to no key gives 0.
        bias: Finite numbers added to the scores; they broadcast likewise (T5's relative positions).
        scale: Factor of q·k; 1 / sqrt(D) by default.

    Returns:
        (B, heads, N, D).
    """
    if scale is None:
        scale = 1.0 / math.sqrt(q.shape[-1])
    return backend.current().body.attention(q, k, v, mask, bias, scale)


def attention_with_lse(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attention to some of the keys, in a form that can be merged with attention to others (ring attention).

    Args:
        q: Queries (B, heads, N, D).
        k, v: Keys and values (B, heads, M, D).
        scale: Factor of q·k; 1 / sqrt(D) by default.
        mask: Booleans that broadcast to (B, 1, N, M); True attends.

    Returns:
        (out, lse): out (B, heads, N, D), and lse (B, heads, N) float32, the logarithm of the sum of the
        exponentials of each query's scores. They are 0 and -inf for a query that may attend to no key.
    """
    if scale is None:
        scale = 1.0 / math.sqrt(q.shape[-1])
    return backend.current().body.attention_with_lse(q, k, v, mask, scale)


def merge_attention(out: Tensor, lse: Tensor, other_out: Tensor, other_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Merge what `attention_with_lse` gave for some keys and for the other keys: attention to all of them.

    Args:
        out, other_out: (B, heads, N, D).
        lse, other_lse: (B, heads, N) float32.

    Returns:
        (out, lse) as `attention_with_lse` would give them for all keys at once (Liu et al. 2023,
        arXiv:2310.01889).
    """
    return backend.current().body.merge_attention(out, lse, other_out, other_lse)


def conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
) -> Tensor:
    """Convolve x (B, I, T, H, W) with weight (O, I, kT, kH, kW), padded by zeros: (B, O, T', H', W')."""
    return backend.current().body.conv3d(x, weight, bias, tuple_of(stride, 3), tuple_of(padding, 3))


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
) -> Tensor:
    """Convolve x (B, I, H, W) with weight (O, I, kH, kW), padded by zeros: (B, O, H', W')."""
    return backend.current().body.conv2d(x, weight, bias, tuple_of(stride, 2), tuple_of(padding, 2))


def pad(x: Tensor, widths: Sequence[int], mode: str = "constant") -> Tensor:
    """Pad the last axes of x by widths in torch's order: last axis before and after, last but one before, ...

    mode is "constant" (zeros), "replicate" (repeat the edge) or "reflect" (mirror, without the edge).
    """
    if mode not in PAD_MODES:
        raise ValueError(f"mode: {mode!r} is not allowed; one of {', '.join(PAD_MODES)}")
    if len(widths) % 2 or len(widths) > 2 * x.ndim or min(widths, default=0) < 0:
        raise ValueError(f"widths: {tuple(widths)} is not allowed; two numbers of 0 or more for each axis")
    if not any(widths):
        return x
    return backend.current().body.pad(x, tuple(widths), mode)


def interpolate_nearest(
    x: Tensor, size: int | Sequence[int] | None = None, scale: float | Sequence[float] | None = None
) -> Tensor:
    """Resize x (B, C, ...) to `size`, or by the factor `scale`, as torch's "nearest" does.

    The result at index i is x at floor(i * old / new), or floor(i / scale), computed in float32.
    """
    if (size is None) == (scale is None):
        raise ValueError("interpolate_nearest takes one of size and scale")
    old = x.shape[2:]
    if size is not None:
        new = tuple_of(size, len(old))
        factors = [n / m for n, m in zip(old, new, strict=True)]
    else:
        scales = tuple_of(scale, len(old))
        new = tuple(math.floor(n * s) for n, s in zip(old, scales, strict=True))
        factors = [1.0 / s for s in scales]
    indices = [
        np.minimum(np.floor(np.arange(m, dtype=np.float32) * np.float32(f)).astype(np.int64), n - 1)
        for n, m, f in zip(old, new, factors, strict=True)
    ]
    return backend.current().body.take(x, indices)


def cat(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Concatenate tensors along an existing axis."""
    return backend.current().body.cat(tuple(tensors), axis)


def stack(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Concatenate tensors of one shape along a new axis."""
    # Not with MindSpore's operator: on the CPU it wakes threads that then spin on the cores we compute on.
    at = (slice(None),) * (axis % (tensors[0].ndim + 1))
    return cat([x[(*at, None)] for x in tensors], len(at))


def split(x: Tensor, sizes: int | Sequence[int], axis: int = 0) -> tuple[Tensor, ...]:
    """Cut x along an axis into pieces of these sizes; one number: of this size, the last may be smaller.

    Raises:
        ValueError: Sizes that do not sum to the axis.
    """
    length = x.shape[axis]
    if isinstance(sizes, int):
        sizes = [min(sizes, length - start) for start in range(0, length, sizes)]
    if sum(sizes) != length:
        raise ValueError(f"sizes: {tuple(sizes)} do not sum to {length}, the length of axis {axis}")
    return backend.current().body.split(x, tuple(sizes), axis)


def chunk(x: Tensor, n: int, axis: int = 0) -> tuple[Tensor, ...]:
    """Cut x along an axis into n pieces; the last may be smaller."""
    return split(x, -(-x.shape[axis] // n), axis)


def reshape(x: Tensor, shape: Sequence[int]) -> Tensor:
    """x in another shape, its values in the same order; one length may be -1, for what is left.

    For tensors that may be transposed or cut views: copying these on the CPU is much faster here than in the
    tensor's own method.
    """
    return backend.current().body.reshape(x, tuple(shape))


def copy(x: Tensor) -> Tensor:
    """A contiguous copy of x, for example of a view, to free the rest of its memory."""
    return backend.current().body.copy(x)


def add(x: Tensor, y: Tensor | float) -> Tensor:
    """x + y, broadcast. For activations: on the CPU MindSpore's operator slows our threads down."""
    return backend.current().body.add(x, y)


def multiply(x: Tensor, y: Tensor | float) -> Tensor:
    """x * y, broadcast. For activations, as `add`."""
    return backend.current().body.multiply(x, y)


def multiply_add(x: Tensor, factor: Tensor, addend: Tensor) -> Tensor:
    """x * factor + addend, all broadcast, in one pass: scale and shift, or a gated residual.

    On the CPU much faster than two operators where a side broadcasts.
    """
    return backend.current().body.multiply_add(x, factor, addend)


def relu(x: Tensor) -> Tensor:
    """The larger of x and 0."""
    return ops.relu(x)


def exp(x: Tensor) -> Tensor:
    """e to the x."""
    return backend.current().body.exp(x)


def sin(x: Tensor) -> Tensor:
    """Sine of x in radians."""
    return backend.current().body.sin(x)


def cos(x: Tensor) -> Tensor:
    """Cosine of x in radians."""
    return backend.current().body.cos(x)


def tanh(x: Tensor) -> Tensor:
    """Hyperbolic tangent."""
    return backend.current().body.tanh(x)


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + e to the -x)."""
    return backend.current().body.sigmoid(x)


def sqrt(x: Tensor) -> Tensor:
    """Square root."""
    return ops.sqrt(x)


def where(condition: Tensor, a: Any, b: Any) -> Tensor:
    """a where condition is True, otherwise b; all broadcast."""
    return ops.where(condition, a, b)


def clip(x: Tensor, low: float | None = None, high: float | None = None) -> Tensor:
    """x, no smaller than low and no larger than high."""
    return backend.current().body.clip(x, low, high)


def zeros(shape: Sequence[int], dtype: Any = backend.float32) -> Tensor:
    """A tensor of 0."""
    return backend.current().body.zeros(tuple(shape), dtype)


def ones(shape: Sequence[int], dtype: Any = backend.float32) -> Tensor:
    """A tensor of 1."""
    backend.current()
    return mint.ones(tuple(shape), dtype=dtype)


def from_numpy(array: Any, dtype: Any = None) -> Tensor:
    """A tensor of the array's values; on the CPU it shares the array's memory if the dtypes agree."""
    backend.current()
    source = np.ascontiguousarray(array).reshape(np.shape(array))
    if dtype == backend.float32 and source.itemsize == 2 and backend.device() == "cpu":
        # MindSpore's cast takes a millisecond whatever the size, and a checkpoint has hundreds of tensors.
        source = source.astype(np.float32)
    tensor = Tensor.from_numpy(source)
    return tensor if dtype is None or tensor.dtype == dtype else tensor.astype(dtype)


def to_numpy(x: Tensor) -> np.ndarray[Any, Any]:
    """The values as an array; float16 and bfloat16 as float32."""
    if x.dtype in (backend.float16, backend.bfloat16):
        x = x.astype(backend.float32)
    return x.asnumpy()


def tuple_of(value: Any, n: int) -> tuple[Any, ...]:
    """(value,) * n, or value as a tuple where it is already a sequence of n.

    Raises:
        ValueError: A sequence of another length.
    """
    if not isinstance(value, list | tuple):
        return (value,) * n
    if len(value) != n:
        raise ValueError(f"{tuple(value)} is not allowed; one number or {n} of them")
    return tuple(value)
