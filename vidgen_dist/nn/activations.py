"""Activations by their names in configs (`vidgen_dist.activations`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from vidgen_dist import activations, nn

Activation = Callable[[nn.Tensor], nn.Tensor]


def gelu(x: nn.Tensor) -> nn.Tensor:
    """GELU, exact, by the error function (Hendrycks and Gimpel, arXiv:1606.08415)."""
    return nn.gelu(x, approximate="none")


def gelu_tanh(x: nn.Tensor) -> nn.Tensor:
    """GELU, approximated by tanh."""
    return nn.gelu(x, approximate="tanh")


def gelu_sigmoid(x: nn.Tensor) -> nn.Tensor:
    """GELU, approximated by the sigmoid (section 2 of the paper)."""
    return nn.multiply(x, nn.sigmoid(nn.multiply(x, 1.702)))


def mish(x: nn.Tensor) -> nn.Tensor:
    """x tanh(ln(1 + eˣ)) (arXiv:1908.08681), as a ratio in eˣ, which is 1 in float32 from x = 20 on."""
    e = nn.exp(nn.clip(x.astype(nn.float32), None, 20.0))
    ratio = e * (e + 2) / (e * (e + 2) + 2)
    return x * ratio.astype(x.dtype)


def activated(norm: nn.GroupNorm, activation: Activation, *args: Any) -> nn.Tensor:
    """activation(norm(*args)), in one pass where the two can be."""
    return norm(*args, silu=True) if activation is nn.silu else activation(norm(*args))


_FUNCTIONS: Mapping[str, Activation] = {
    "silu": nn.silu,
    "relu": nn.relu,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "gelu_sigmoid": gelu_sigmoid,
    "mish": mish,
}


def of_diffusers(name: str) -> Activation:
    """The activation of this name in diffusers; upper or lower case."""
    return _FUNCTIONS[activations.DIFFUSERS[name.lower()]]


def of_transformers(name: str) -> Activation:
    """The activation of this name in transformers."""
    return _FUNCTIONS[activations.TRANSFORMERS[name]]
