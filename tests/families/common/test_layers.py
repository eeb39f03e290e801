"""Layers and activations that families share, against NumPy."""

import math

import numpy as np
import pytest

from vidgen_dist import nn
from vidgen_dist.activations import DIFFUSERS, FEED_FORWARDS, TRANSFORMERS
from vidgen_dist.families.common.layers import FeedForward, TimestepEmbedding, joint_rotary
from vidgen_dist.nn.activations import of_diffusers, of_transformers
from vidgen_dist.nn.rotary import apply_rotary
from vidgen_dist.parallel.mesh import alone
from vidgen_dist.parallel.token_split import split_tokens

erf = np.vectorize(math.erf)


def sigmoid(x):
    return np.exp(-np.logaddexp(0, -x))


def silu(x):
    return x * sigmoid(x)


def gelu(x):
    return x * (1 + erf(x / np.sqrt(2))) / 2


def gelu_tanh(x):
    return x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2


def relu(x):
    return np.maximum(x, 0)


def randomised(module):
    """The module with random weights, and the weights in float64."""
    rng = np.random.default_rng(0)
    weights = {}
    for key, parameter in nn.named_parameters(module).items():
        values = (0.3 * rng.standard_normal(parameter.shape)).astype(np.float32)
        parameter.set_data(nn.from_numpy(values))
        weights[key] = values.astype(np.float64)
    return module, weights


def test_text_does_not_turn():
    """The first L tokens do not change; pairs of the others' channels rotate like complex numbers."""
    rng = np.random.default_rng(0)
    x, angles = rng.standard_normal((2, 7, 3, 8)).astype(np.float32), rng.standard_normal((4, 4))
    tables = [np.repeat(wave(angles), 2, axis=1).astype(np.float32) for wave in (np.cos, np.sin)]
    split = split_tokens(alone(), text=3, video=4)
    turned = nn.to_numpy(apply_rotary(nn.from_numpy(x), joint_rotary(tables, split)))
    np.testing.assert_array_equal(turned[:, :3], x[:, :3])

    def numbers(pairs):
        return pairs[..., 0::2] + 1j * pairs[..., 1::2]

    expected = numbers(x[:, 3:]) * np.exp(1j * angles)[None, :, None, :]
    np.testing.assert_allclose(numbers(turned[:, 3:]), expected, atol=1e-6)


FEED_FORWARD = {
    "gelu": gelu,
    "gelu-approximate": gelu_tanh,
    "geglu": lambda x: x[:, :64] * gelu(x[:, 64:]),
    "geglu-approximate": lambda x: x * sigmoid(1.702 * x),
    "swiglu": lambda x: x[:, :64] * silu(x[:, 64:]),
    "linear-silu": silu,
}


def test_all_feed_forwards_are_looked_at():
    assert FEED_FORWARD.keys() == FEED_FORWARDS.keys()


@pytest.mark.parametrize("activation", FEED_FORWARD)
def test_feed_forward(activation):
    module, weights = randomised(FeedForward(16, activation))
    x = 3 * np.random.default_rng(2).standard_normal((5, 16))
    hidden = FEED_FORWARD[activation](x @ weights["net.0.proj.weight"].T + weights["net.0.proj.bias"])
    expected = hidden @ weights["net.2.weight"].T + weights["net.2.bias"]
    ours = nn.to_numpy(module(nn.from_numpy(x.astype(np.float32))))
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


def test_width_of_a_feed_forward():
    shapes = {key: value.shape for key, value in nn.named_parameters(FeedForward(16, "swiglu", 24)).items()}
    assert shapes["net.0.proj.weight"] == (48, 16)
    assert shapes["net.2.weight"] == (16, 24)


OF_DIFFUSERS = {
    "silu": silu,
    "swish": silu,
    "mish": lambda x: x * np.tanh(np.logaddexp(0, x)),
    "gelu": gelu,
    "relu": relu,
}
OF_TRANSFORMERS = {
    "relu": relu,
    "gelu": gelu,
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "quick_gelu": lambda x: x * sigmoid(1.702 * x),
    "silu": silu,
    "swish": silu,
}


@pytest.mark.parametrize(
    ("names", "found", "formulas"),
    [(DIFFUSERS, of_diffusers, OF_DIFFUSERS), (TRANSFORMERS, of_transformers, OF_TRANSFORMERS)],
)
def test_activations(names, found, formulas):
    assert names.keys() == formulas.keys()
    # Large values too: an exponential must not overflow.
    x = np.array([-1000.0, -90.0, -5.0, -1.0, -0.1, 0.0, 0.1, 1.0, 5.0, 25.0, 1000.0])
    for name, formula in formulas.items():
        values = nn.to_numpy(found(name)(nn.from_numpy(x.astype(np.float32))))
        np.testing.assert_allclose(values, formula(x), rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("activation", ["silu", "Mish"])
def test_timestep_embedding(activation):
    module, weights = randomised(TimestepEmbedding(8, 12, activation))
    x = np.random.default_rng(2).standard_normal((5, 8))
    hidden = OF_DIFFUSERS[activation.lower()](x @ weights["linear_1.weight"].T + weights["linear_1.bias"])
    expected = hidden @ weights["linear_2.weight"].T + weights["linear_2.bias"]
    ours = nn.to_numpy(module(nn.from_numpy(x.astype(np.float32))))
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)
