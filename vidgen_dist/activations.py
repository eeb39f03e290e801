"""Activations by the names that configs give them: each stands for a function of `nn.activations`."""

from __future__ import annotations

from collections.abc import Mapping

DIFFUSERS: Mapping[str, str] = {
    "silu": "silu",
    "swish": "silu",
    "mish": "mish",
    "gelu": "gelu",
    "relu": "relu",
}
"""diffusers' names, lower-case."""

TRANSFORMERS: Mapping[str, str] = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "gelu_sigmoid",
    "silu": "silu",
    "swish": "silu",
}
"""transformers' names."""

FEED_FORWARDS: Mapping[str, tuple[bool, str]] = {
    "gelu": (False, "gelu"),
    "gelu-approximate": (False, "gelu_tanh"),
    "geglu": (True, "gelu"),
    "geglu-approximate": (False, "gelu_sigmoid"),
    "swiglu": (True, "silu"),
    "linear-silu": (False, "silu"),
}
"""(gated, activation) of a feed-forward by diffusers' names; "geglu-approximate" is not gated."""
