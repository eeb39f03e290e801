"""Activations, by the names that configs give them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from vidgen_dist import nn

Activation = Callable[[nn.Tensor], nn.Tensor]


def gelu(x: nn.Tensor) -> nn.Tensor:
    """GELU by the error function (Hendrycks and Gimpel, arXiv:1606.08415)."""
    return nn.gelu(x, approximate="none")


def gelu_tanh(x: nn.Tensor) -> nn.Tensor:
    """GELU by its tanh form."""
    return nn.gelu(x, approximate="tanh")


def gelu_sigmoid(x: nn.Tensor) -> nn.Tensor:
    """GELU by its sigmoid form (section 2 of its paper)."""
    return nn.multiply(x, nn.sigmoid(nn.multiply(x, 1.702)))


def mish(x: nn.Tensor) -> nn.Tensor:
    """x tanh(ln(1 + eˣ)) (arXiv:1908.08681), as a ratio in eˣ: from 20 on the ratio is 1 in float32."""
    e = nn.exp(nn.clip(x.astype(nn.float32), None, 20.0))
    ratio = e * (e + 2) / (e * (e + 2) + 2)
    return x * ratio.astype(x.dtype)


DIFFUSERS: Mapping[str, Activation] = {
    "silu": nn.silu,
    "swish": nn.silu,
    "mish": mish,
    "gelu": gelu,
    "relu": nn.relu,
}
"""diffusers' names, lower-case."""

TRANSFORMERS: Mapping[str, Activation] = {
    "relu": nn.relu,
    "gelu": gelu,
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "quick_gelu": gelu_sigmoid,
    "silu": nn.silu,
    "swish": nn.silu,
}
"""transformers' names."""
