"""The functions on Ascend: MindSpore's native kernels, flash attention in float16 and bfloat16."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, mint, ops

F = mint.nn.functional

# Flash attention takes head sizes that are multiples of this number.
_HEAD_SIZE = 16


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., I) times weight (O, I) transposed, plus bias (O,)."""
    return F.linear(x, weight, bias)


def activated_linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str, gated: bool) -> Tensor:
    """An activation of `linear`'s results; with `gated`, of their second half, times the first."""
    hidden = linear(x, weight, bias)
    if not gated:
        return _ACTIVATIONS[activation](hidden)
    value, gate = mint.chunk(hidden, 2, -1)
    return value * _ACTIVATIONS[activation](gate)


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """a (..., N, K) times b (..., K, M), leading axes broadcast."""
    return mint.matmul(a, b)


def embedding(ids: Tensor, weight: Tensor) -> Tensor:
    """Rows of weight (V, D) by ids (...): (..., D)."""
    return F.embedding(ids, weight)


def layer_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    scale: Tensor | None,
    shift: Tensor | None,
) -> Tensor:
    """Normalise over the last axis, then scale and shift."""
    return _modulated(F.layer_norm(x, (x.shape[-1],), weight, bias, eps), scale, shift)


def rms_norm(
    x: Tensor, weight: Tensor | None, eps: float, scale: Tensor | None, shift: Tensor | None
) -> Tensor:
    """Divide by the root mean square over the last axis, then scale and shift."""
    if weight is None:
        weight = mint.ones((x.shape[-1],), dtype=x.dtype)
    return _modulated(ops.rms_norm(x, weight, eps)[0], scale, shift)


def _modulated(x: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    x = x if scale is None else x * (scale + 1.0)
    return x if shift is None else x + shift


def channel_rms_norm(x: Tensor, eps: float) -> Tensor:
    """Divide x (B, C, ...) by the root mean square over its channels."""
    square = mint.mean(mint.square(x.astype(ms.float32)), 1, keepdim=True)
    return (x * mint.rsqrt(square + eps)).astype(x.dtype)


def group_norm(
    x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float, activated: bool = False
) -> Tensor:
    """Normalise x (B, C, ...) over each group of C / groups channels and all axes after them."""
    normed = F.group_norm(x, groups, weight, bias, eps)
    return silu(normed) if activated else normed


def group_moments(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and variance (B, groups) of each group of x (B, C, ...)."""
    grouped = x.astype(ms.float32).reshape(x.shape[0], groups, -1)
    mean = mint.mean(grouped, -1, keepdim=True)
    return mean[..., 0], mint.mean(mint.square(grouped - mean), -1)


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
    channels = (1, groups, x.shape[1] // groups, 1)
    grouped = x.astype(ms.float32).reshape(x.shape[0], *channels[1:3], -1)
    out = (grouped - mean[..., None, None]) * mint.rsqrt(variance + eps)[..., None, None]
    if weight is not None:
        out = out * weight.reshape(channels)
    if bias is not None:
        out = out + bias.reshape(channels)
    normed = out.reshape(x.shape).astype(x.dtype)
    return silu(normed) if activated else normed


def silu(x: Tensor) -> Tensor:
    """x times its sigmoid."""
    return F.silu(x)


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x))."""
    return mint.sigmoid(x)


def tanh(x: Tensor) -> Tensor:
    """Hyperbolic tangent."""
    return mint.tanh(x)


def exp(x: Tensor) -> Tensor:
    """e to the x."""
    return mint.exp(x)


def sin(x: Tensor) -> Tensor:
    """Sine of x in radians."""
    return mint.sin(x)


def cos(x: Tensor) -> Tensor:
    """Cosine of x in radians."""
    return mint.cos(x)


def clip(x: Tensor, low: float | None, high: float | None) -> Tensor:
    """x, no smaller than low and no larger than high."""
    return ops.clamp(x, low, high)


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU by its tanh approximation."""
    return F.gelu(x, approximate="tanh")


def gelu_erf(x: Tensor) -> Tensor:
    """GELU by the error function."""
    return F.gelu(x, approximate="none")


def _gelu_sigmoid(x: Tensor) -> Tensor:
    """GELU by its sigmoid approximation."""
    return x * mint.sigmoid(x * 1.702)


_ACTIVATIONS = {"silu": silu, "gelu": gelu_erf, "gelu_tanh": gelu_tanh, "gelu_sigmoid": _gelu_sigmoid}


def add(x: Tensor, y: Tensor | float) -> Tensor:
    """x + y."""
    return x + y


def multiply(x: Tensor, y: Tensor | float) -> Tensor:
    """x * y."""
    return x * y


def multiply_add(x: Tensor, factor: Tensor, addend: Tensor) -> Tensor:
    """x * factor + addend."""
    return x * factor + addend


def rotate(x: Tensor, cos: Tensor, sin: Tensor, swap: Tensor) -> Tensor:
    """x * cos + (x @ swap) * sin, in the dtype of x."""
    return (x * cos + mint.matmul(x, swap.astype(x.dtype)) * sin).astype(x.dtype)


def cat(tensors: Sequence[Tensor], axis: int) -> Tensor:
    """Concatenate tensors along an axis."""
    return mint.cat(tensors, axis)


def split(x: Tensor, sizes: Sequence[int], axis: int) -> tuple[Tensor, ...]:
    """Pieces of x along an axis."""
    return tuple(mint.split(x, list(sizes), axis))


def reshape(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """x in another shape."""
    return x.reshape(shape)


def copy(x: Tensor) -> Tensor:
    """A contiguous copy of x."""
    return x.copy()


def zeros(shape: tuple[int, ...], dtype: Any) -> Tensor:
    """A tensor of 0."""
    return mint.zeros(shape, dtype=dtype)


def softmax(x: Tensor, axis: int) -> Tensor:
    """Exponentials that sum to 1 over `axis`."""
    return F.softmax(x, dim=axis)


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor | None, scale: float
) -> Tensor:
    """Softmax attention. float32, which flash attention does not take, is computed by plain products.

    A query that may attend to no key gives 0.
    """
    if q.dtype == ms.float32:
        out = mint.matmul(F.softmax(_scores(q, k, mask, bias, scale), dim=-1), v)
    else:
        out = _flash_attention(q, k, v, mask, bias, scale)
    if mask is None:
        return out
    return _where_any(mask, out, 0.0)


def attention_with_lse(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """As `attention`, and each query's log-sum-exp of scores (B, heads, N)."""
    if q.dtype == ms.float32:
        scores = _scores(q, k, mask, None, scale)
        out, lse = mint.matmul(F.softmax(scores, dim=-1), v), mint.logsumexp(scores, -1, keepdim=True)
    else:
        out, lse = _flash_attention_with_lse(q, k, v, mask, scale)
    if mask is not None:
        out, lse = _where_any(mask, out, 0.0), _where_any(mask, lse, -np.inf)
    return out, lse[..., 0]


def merge_attention(out: Tensor, lse: Tensor, other_out: Tensor, other_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Attention to all keys, from attention to some of them and to the others."""
    total = mint.logaddexp(lse, other_lse)
    nothing = total == -np.inf
    weights = [mint.where(nothing, 0.0, mint.exp(x - total))[..., None] for x in (lse, other_lse)]
    merged = out * weights[0] + other_out * weights[1]
    return merged.astype(out.dtype), mint.where(nothing, -np.inf, total)


def _flash_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor | None, scale: float
) -> Tensor:
    batch, heads, n, size = q.shape
    m = k.shape[2]
    discard = None if mask is None else _discard(mask, batch, n, m)
    if bias is not None:
        bias = mint.broadcast_to(bias, (bias.shape[0], heads, n, m)).astype(q.dtype).contiguous()
    # Zeros at the end of every head change neither the scores nor the other values.
    q, k, v = (_pad_head(x) for x in (q, k, v))
    out = ops.flash_attention_score(
        q, k, v, heads, real_shift=bias, attn_mask=discard, scalar_value=scale, input_layout="BNSD"
    )
    return out[..., :size]


def _flash_attention_with_lse(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    batch, heads, n, size = q.shape
    out, lse = ops.fused_infer_attention_score(
        *(_pad_head(x) for x in (q, k, v)),
        atten_mask=None if mask is None else _discard(mask, batch, n, k.shape[2]),
        num_heads=heads,
        scale=scale,
        input_layout="BNSD",
        inner_precise=0,  # high precision
        softmax_lse_flag=True,
    )
    return out[..., :size], lse


def _discard(mask: Tensor, batch: int, n: int, m: int) -> Tensor:
    """The mask as the kernels take it: True is left out, all axes but the heads are full."""
    discard = mint.logical_not(mask)
    while discard.ndim < 4:
        discard = discard[None]
    return mint.broadcast_to(discard, (batch, discard.shape[1], n, m)).contiguous()


def _scores(q: Tensor, k: Tensor, mask: Tensor | None, bias: Tensor | None, scale: float) -> Tensor:
    scores = mint.matmul(q * scale, k.transpose(0, 1, 3, 2))
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = ops.where(mask, scores, mint.zeros((1,), dtype=scores.dtype) - 1e30)
    return scores


def _where_any(mask: Tensor, x: Tensor, otherwise: float) -> Tensor:
    """x (B, heads, N, any), and `otherwise` in the rows of queries that may attend to no key."""
    nothing = mint.zeros((1,), dtype=x.dtype) + otherwise
    return ops.where(mask.any(axis=-1, keep_dims=True), x, nothing)


def _pad_head(x: Tensor) -> Tensor:
    missing = -x.shape[-1] % _HEAD_SIZE
    if not missing:
        return x
    return mint.cat([x, mint.zeros((*x.shape[:-1], missing), dtype=x.dtype)], -1)


def conv3d(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    """x (B, I, T, H, W), weight (O, I, kT, kH, kW); zero padding before and after each axis."""
    return F.conv3d(x, weight, bias, tuple(stride), tuple(padding))


def conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    """x (B, I, H, W), weight (O, I, kH, kW)."""
    return F.conv2d(x, weight, bias, tuple(stride), tuple(padding))


def pad(x: Tensor, widths: Sequence[int], mode: str) -> Tensor:
    """Pad the last len(widths) / 2 axes, last axis first."""
    widths = tuple(widths)
    if mode != "constant":
        # These modes take exactly as many axes as follow batch and channels.
        widths += (0,) * (2 * (x.ndim - 2) - len(widths))
    return F.pad(x, widths, mode=mode)


def take(x: Tensor, indices: Sequence[np.ndarray[Any, Any]]) -> Tensor:
    """Take indices[i] along axis 2 + i of x (B, C, ...)."""
    for axis, index in enumerate(indices, start=2):
        x = mint.index_select(x, axis, Tensor.from_numpy(index))
    return x
