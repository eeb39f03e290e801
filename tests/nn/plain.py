"""The layers written out plainly in float64, to compare all implementations with."""

import itertools
import math

import numpy as np
from scipy import special


def linear(x, weight, bias=None):
    y = x.astype(np.float64) @ weight.T.astype(np.float64)
    return y if bias is None else y + bias


def layer_norm(x, weight=None, bias=None, eps=1e-5):
    x = x.astype(np.float64)
    y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
    return y * (1 if weight is None else weight) + (0 if bias is None else bias)


def rms_norm(x, weight=None, eps=1e-6):
    x = x.astype(np.float64)
    y = x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)
    return y * (1 if weight is None else weight)


def group_norm(x, groups, weight=None, bias=None, eps=1e-5):
    rows = x.astype(np.float64).reshape(x.shape[0], groups, -1)
    y = (rows - rows.mean(-1, keepdims=True)) / np.sqrt(rows.var(-1, keepdims=True) + eps)
    channels = (1, -1, *[1] * (x.ndim - 2))
    y = y.reshape(x.shape)
    y = y if weight is None else y * weight.reshape(channels)
    return y if bias is None else y + bias.reshape(channels)


def silu(x):
    return x * special.expit(x.astype(np.float64))


def gelu(x, approximate="none"):
    x = x.astype(np.float64)
    if approximate == "none":
        return x * special.ndtr(x)
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def softmax(x, axis=-1):
    return special.softmax(x.astype(np.float64), axis=axis)


def attention(q, k, v, mask=None, bias=None, scale=None):
    return attention_with_lse(q, k, v, mask, scale, bias)[0]


def attention_with_lse(q, k, v, mask=None, scale=None, bias=None):
    q, k, v = (a.astype(np.float64) for a in (q, k, v))
    scores = q @ k.swapaxes(-1, -2) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if bias is not None:
        scores = scores + bias
    mask = np.broadcast_to(True if mask is None else mask, scores.shape)
    scores = np.where(mask, scores, -np.inf)
    top = np.where(mask.any(-1, keepdims=True), scores.max(-1, keepdims=True), 0)
    weights = np.exp(scores - top)
    total = weights.sum(-1, keepdims=True)
    with np.errstate(divide="ignore"):
        lse = np.log(total) + top
    return weights / np.maximum(total, 1e-300) @ v, lse[..., 0]


def convolution(x, weight, bias=None, stride=1, padding=0):
    """Convolution over as many axes as the kernel has; stride and padding are one number, or one per axis."""
    rank = weight.ndim - 2
    stride, padding = (p if isinstance(p, tuple) else (p,) * rank for p in (stride, padding))
    x = np.pad(x.astype(np.float64), [(0, 0), (0, 0), *((p, p) for p in padding)])
    shape = [(n - k) // s + 1 for n, k, s in zip(x.shape[2:], weight.shape[2:], stride, strict=True)]
    y = np.zeros((x.shape[0], weight.shape[0], *shape))
    for tap in itertools.product(*map(range, weight.shape[2:])):
        window = tuple(slice(t, t + (n - 1) * s + 1, s) for t, n, s in zip(tap, shape, stride, strict=True))
        y += np.einsum("oi,bi...->bo...", weight[(..., *tap)].astype(np.float64), x[(..., *window)])
    return y if bias is None else y + bias.reshape(-1, *[1] * rank)


def interpolate_nearest(x, size):
    for axis, new in enumerate(size, start=2):
        x = np.take(x, [i * x.shape[axis] // new for i in range(new)], axis)
    return x
