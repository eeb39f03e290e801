"""Activations, by the names that configs give them (`vidgen_dist.activations`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from vidgen_dist import activations, nn

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


_FUNCTIONS: Mapping[str, Activation] = {
    "silu": nn.silu,
    "relu": nn.relu,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "gelu_sigmoid": gelu_sigmoid,
    "mish": mish,
}


def of_diffusers(name: str) -> Activation:
    """The activation that diffusers calls so, in any case."""
    return _FUNCTIONS[activations.DIFFUSERS[name.lower()]]


def of_transformers(name: str) -> Activation:
    """The activation that transformers calls so."""
    return _FUNCTIONS[activations.TRANSFORMERS[name]]


def of_feed_forward(name: str) -> tuple[bool, Activation]:
    """Whether the feed-forward that diffusers calls so is gated, and its activation."""
    gated, function = activations.FEED_FORWARDS[name]
    return gated, _FUNCTIONS[function]
