"""Functions on the CPU against the plain ones, at odd shapes and over strided views."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from scipy import special

from tests.nn import plain
from vidgen_dist import nn
from vidgen_dist.activations import FEED_FORWARDS
from vidgen_dist.nn import backend, cpu_graphs
from vidgen_dist.nn.rotary import apply_rotary, rotary

TOLERANCE = {"rtol": 2e-5, "atol": 2e-5}


@pytest.fixture
def draw():
    rng = np.random.default_rng(7)
    return lambda *shape: rng.standard_normal(shape, dtype=np.float32)


def check(tensor, expected, **tolerance):
    array = nn.to_numpy(tensor)
    assert array.shape == expected.shape
    np.testing.assert_allclose(array, expected, **(tolerance or TOLERANCE))


@pytest.mark.parametrize("lead", [(), (1,), (7,), (2, 3, 5), (1030,)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(draw, lead, bias):
    x, w, b = draw(*lead, 19), draw(530, 19), draw(530) if bias else None
    check(nn.linear(*map(tensor, (x, w, b))), plain.linear(x, w, b))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("name", sorted({function for _, function in FEED_FORWARDS.values()}))
def test_an_activated_product_is_the_activation_of_the_product(draw, name, gated, bias):
    x, w, b = draw(3, 5, 19), draw(46, 19), draw(46) if bias else None
    hidden = plain.linear(x, w, b)
    value, gate = np.split(hidden, 2, -1) if gated else (1, hidden)
    activation = {
        "silu": plain.silu,
        "gelu": plain.gelu,
        "gelu_tanh": partial(plain.gelu, approximate="tanh"),
        "gelu_sigmoid": lambda x: x * special.expit(1.702 * x),
    }[name]
    check(nn.activated_linear(*map(tensor, (x, w, b)), name, gated), value * activation(gate))


def tensor(array):
    return None if array is None else nn.from_numpy(array)


@pytest.mark.parametrize(
    ("a", "b"), [((5, 7), (7, 3)), ((2, 4, 5, 7), (7, 3)), ((2, 1, 5, 7), (4, 7, 3)), ((3, 1, 7), (3, 7, 2))]
)
def test_matmul(draw, a, b):
    x, y = draw(*a), draw(*b)
    check(nn.matmul(tensor(x), tensor(y)), x @ y)


@pytest.mark.parametrize("shape", [(3,), (1, 1), (5, 33), (2, 700, 130)])
@pytest.mark.parametrize("affine", [True, False])
def test_norms_over_the_last_axis(draw, shape, affine):
    x = draw(*shape) * 3 + 50
    w, b = (draw(shape[-1]), draw(shape[-1])) if affine else (None, None)
    check(
        nn.layer_norm(tensor(x), tensor(w), tensor(b), 1e-6),
        plain.layer_norm(x, w, b, 1e-6),
        rtol=1e-3,
        atol=2e-4,
    )
    check(nn.rms_norm(tensor(x), tensor(w), 1e-6), plain.rms_norm(x, w, 1e-6))


@pytest.mark.parametrize("lead", [(2, 1), (2, 70), (1, 70)])
def test_norms_that_are_scaled_and_shifted(draw, lead):
    x, w, b = draw(2, 70, 33), draw(33), draw(33)
    scale, shift = draw(*lead, 33), draw(*lead, 33)
    given = (tensor(scale), tensor(shift))
    expected = plain.layer_norm(x, w, b, 1e-6) * (1 + scale) + shift
    check(nn.layer_norm(tensor(x), tensor(w), tensor(b), 1e-6, *given), expected)
    check(nn.rms_norm(tensor(x), None, 1e-6, *given), plain.rms_norm(x, None, 1e-6) * (1 + scale) + shift)
    check(nn.rms_norm(tensor(x), tensor(w), 1e-6, given[0]), plain.rms_norm(x, w, 1e-6) * (1 + scale))


@pytest.mark.parametrize("pairs", ["neighbours", "halves"])
@pytest.mark.parametrize("heads", [1, 3])
def test_rotary(draw, pairs, heads):
    """A pair of channels (a, b), as the complex number a + bi, is multiplied by e to the i angle."""
    x, angles = draw(2, 600, 3, 16), draw(1, 600, heads, 8)
    repeated = np.repeat(angles, 2, -1) if pairs == "neighbours" else np.tile(angles, 2)
    turned = apply_rotary(tensor(x), rotary(np.cos(repeated), np.sin(repeated), pairs=pairs))
    places = [(2 * i, 2 * i + 1) if pairs == "neighbours" else (i, i + 8) for i in range(8)]
    for i, (a, b) in enumerate(places):
        z = (x[..., a] + 1j * x[..., b]) * np.exp(1j * angles[..., i])
        np.testing.assert_allclose(nn.to_numpy(turned)[..., a], z.real, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(nn.to_numpy(turned)[..., b], z.imag, rtol=1e-5, atol=1e-6)
    view = tensor(x)[:, 100:, :, :]
    cut = rotary(np.cos(repeated[:, 100:]), np.sin(repeated[:, 100:]), pairs=pairs)
    check(apply_rotary(view, cut), nn.to_numpy(turned)[:, 100:])


@pytest.mark.parametrize("shape", [(2, 6, 2), (1, 3, 7), (2, 130, 3, 33, 21)])
def test_rms_norm_of_channels(draw, shape):
    x = draw(*shape) * 3 + 1
    expected = np.moveaxis(plain.rms_norm(np.moveaxis(x, 1, -1), None, 1e-8), -1, 1)
    check(nn.channel_rms_norm(tensor(x), 1e-8), expected)
    check(nn.channel_rms_norm(tensor(x)[:, :, 1:], 1e-8), expected[:, :, 1:])


@pytest.mark.parametrize(
    ("shape", "groups"),
    [
        ((2, 6), 3),
        ((1, 4, 9), 4),
        ((2, 6, 3, 5, 7), 2),
        ((1, 2, 5, 150, 100), 1),
        ((5, 8, 9, 11), 4),
        ((2, 2, 600, 500), 2),
    ],
)
@pytest.mark.parametrize("affine", [True, False])
def test_group_norm(draw, shape, groups, affine):
    x = draw(*shape) + 5
    w, b = (draw(shape[1]), draw(shape[1])) if affine else (None, None)
    check(
        nn.group_norm(tensor(x), groups, tensor(w), tensor(b), 1e-6),
        plain.group_norm(x, groups, w, b, 1e-6),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize(("shape", "groups"), [((2, 6), 3), ((2, 6, 3, 5, 7), 2), ((1, 2, 5, 150, 100), 1)])
def test_group_moments(draw, shape, groups):
    x = draw(*shape) + 5
    rows = x.astype(np.float64).reshape(shape[0], groups, -1)
    mean, variance = nn.group_moments(tensor(x), groups)
    assert (mean.dtype, variance.dtype) == (nn.float32, nn.float32)
    check(mean, rows.mean(-1), rtol=1e-6, atol=0)
    check(variance, rows.var(-1), rtol=1e-5, atol=0)
    w, b = tensor(draw(shape[1])), tensor(draw(shape[1]))
    normed = nn.group_norm_with(tensor(x), groups, mean, variance, w, b, 1e-6)
    check(normed, nn.to_numpy(nn.group_norm(tensor(x), groups, w, b, 1e-6)), rtol=1e-6, atol=2e-6)


def test_group_norm_and_silu_in_one_pass(draw):
    x, w, b = draw(2, 6, 3, 5), tensor(draw(6)), tensor(draw(6))
    expected = nn.to_numpy(nn.silu(nn.group_norm(tensor(x), 3, w, b, 1e-6)))
    check(nn.group_norm(tensor(x), 3, w, b, 1e-6, silu=True), expected, rtol=1e-6, atol=1e-6)
    moments = nn.group_moments(tensor(x), 3)
    check(nn.group_norm_with(tensor(x), 3, *moments, w, b, 1e-6, silu=True), expected, rtol=1e-5, atol=2e-6)


def test_group_norm_of_a_part_by_the_moments_of_the_whole(draw):
    x, w, b = draw(2, 6, 3, 8, 5) + 5, draw(6), draw(6)
    mean, variance = nn.group_moments(tensor(x), 3)
    normed = nn.group_norm_with(tensor(x)[:, :, :, 2:5], 3, mean, variance, tensor(w), tensor(b), 1e-6)
    check(normed, plain.group_norm(x, 3, w, b, 1e-6)[:, :, :, 2:5], rtol=1e-4, atol=1e-4)
    bare = nn.group_norm_with(
        tensor(x), 3, tensor(np.full((2, 3), 1.0, "f4")), tensor(np.full((2, 3), 4.0, "f4"))
    )
    check(bare, (x - 1) / np.sqrt(4 + 1e-5), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 70001)])
def test_activations(draw, shape):
    x = draw(*shape) * 4
    check(nn.silu(tensor(x)), plain.silu(x))
    check(nn.gelu(tensor(x), approximate="tanh"), plain.gelu(x, "tanh"), rtol=1e-5, atol=2e-6)
    check(nn.gelu(tensor(x), approximate="none"), plain.gelu(x), rtol=1e-5, atol=2e-6)
    check(nn.relu(tensor(x)), np.maximum(x, 0))
    check(nn.sigmoid(tensor(x)), special.expit(x), rtol=1e-6, atol=1e-7)
    check(nn.tanh(tensor(x)), np.tanh(x), rtol=1e-6, atol=1e-7)
    check(nn.exp(tensor(x)), np.exp(x), rtol=1e-6, atol=0)


@pytest.mark.filterwarnings("error")
def test_activations_far_out():
    x = np.array([-1e30, -200, -60, 0, 60, 200, 1e30], np.float32)
    expected = np.maximum(x, 0)
    check(nn.silu(tensor(x)), expected, rtol=0, atol=1e-20)
    with np.errstate(over="ignore"):
        check(nn.gelu(tensor(x[1:-1]), approximate="tanh"), expected[1:-1], rtol=0, atol=1e-20)
    check(nn.gelu(tensor(x[1:-1])), expected[1:-1], rtol=0, atol=1e-20)


def test_unknown_gelu_is_refused():
    with pytest.raises(ValueError, match="sigmoid"):
        nn.gelu(tensor(np.ones(2, np.float32)), approximate="sigmoid")


@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_softmax_of_large_values(draw, axis):
    x = draw(3, 41, 17) * 1e4
    check(nn.softmax(tensor(x), axis), plain.softmax(x, axis))


@pytest.mark.parametrize(("n", "m", "size"), [(1, 1, 8), (65, 77, 16), (3, 5000, 5), (1100, 33, 40)])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_attention(draw, n, m, size, scale):
    q, k, v = draw(2, 3, n, size), draw(2, 3, m, size), draw(2, 3, m, size)
    check(nn.attention(tensor(q), tensor(k), tensor(v), scale=scale), plain.attention(q, k, v, scale=scale))


@pytest.mark.parametrize(("batch", "n", "m"), [(32, 5, 7), (700, 16, 16), (33, 1, 1)])
def test_attention_of_many_short_sequences(draw, batch, n, m):
    q, k, v = (draw(batch, rows, 3, 8).transpose(0, 2, 1, 3) for rows in (n, m, m))
    # Transposed views, as models pass them.
    views = [nn.from_numpy(np.ascontiguousarray(x.swapaxes(1, 2))).permute(0, 2, 1, 3) for x in (q, k, v)]
    check(nn.attention(*views), plain.attention(q, k, v, scale=8**-0.5))


@pytest.mark.parametrize("mask_shape", [(2, 1, 1, 29), (2, 3, 37, 29), (1, 1, 37, 29), (37, 29)])
@pytest.mark.parametrize("bias_shape", [None, (1, 3, 37, 29), (2, 3, 37, 29)])
def test_attention_with_mask_and_bias(draw, mask_shape, bias_shape):
    q, k, v = draw(2, 3, 37, 8), draw(2, 3, 29, 8), draw(2, 3, 29, 8)
    mask = draw(*mask_shape) > 0
    bias = None if bias_shape is None else draw(*bias_shape) * 5
    out = nn.attention(tensor(q), tensor(k), tensor(v), mask=tensor(mask), bias=tensor(bias))
    check(out, plain.attention(q, k, v, mask, bias))


@pytest.mark.filterwarnings("error")
def test_attention_to_nothing_is_zero(draw):
    q, k, v = draw(1, 2, 4, 8), draw(1, 2, 5, 8), draw(1, 2, 5, 8)
    mask = np.ones((1, 2, 4, 5), bool)
    mask[0, 1, 2] = False
    out = nn.to_numpy(nn.attention(tensor(q), tensor(k), tensor(v), mask=tensor(mask)))
    assert not out[0, 1, 2].any()
    np.testing.assert_allclose(out, plain.attention(q, k, v, mask), **TOLERANCE)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("mask_shape", [None, (2, 1, 1, 29), (2, 1, 37, 29), (37, 29)])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_attention_with_lse(draw, mask_shape, scale):
    q, k, v = draw(2, 3, 37, 8) * 30, draw(2, 3, 29, 8), draw(2, 3, 29, 8)
    mask = None if mask_shape is None else draw(*mask_shape) > 0
    if mask is not None:
        mask[..., 0, :] = False
    out, lse = nn.attention_with_lse(tensor(q), tensor(k), tensor(v), scale=scale, mask=tensor(mask))
    expected = plain.attention_with_lse(q, k, v, mask, scale)
    assert lse.dtype == nn.float32
    check(out, expected[0], rtol=1e-4, atol=1e-4)
    check(lse, expected[1], rtol=1e-5, atol=1e-4)
    if mask is not None:
        np.testing.assert_array_equal(nn.to_numpy(lse)[:, :, 0], -np.inf)
        assert not nn.to_numpy(out)[:, :, 0].any()


@pytest.mark.filterwarnings("error")
def test_attention_to_parts_merges(draw):
    q, k, v = draw(2, 2, 9, 16) * 5, draw(2, 2, 31, 16), draw(2, 2, 31, 16)
    mask = draw(2, 1, 9, 31) > 0
    mask[0, 0, 0] = False  # no key to attend to
    mask[1, 0, 1, :7] = False  # none in the first part
    mask[1, 0, 2, 7:] = False  # none in the second
    parts = [
        nn.attention_with_lse(tensor(q), *(tensor(x[:, :, at]) for x in (k, v)), mask=tensor(mask[..., at]))
        for at in (slice(0, 7), slice(7, 20), slice(20, None))
    ]
    out, lse = nn.merge_attention(*nn.merge_attention(*parts[0], *parts[1]), *parts[2])
    expected = plain.attention_with_lse(q, k, v, mask)
    check(out, expected[0])
    check(lse, expected[1])


def test_attention_of_large_scores(draw):
    q, k, v = draw(1, 1, 9, 16) * 100, draw(1, 1, 11, 16) * 100, draw(1, 1, 11, 16)
    check(nn.attention(tensor(q), tensor(k), tensor(v)), plain.attention(q, k, v), rtol=1e-3, atol=1e-3)


def test_views_are_read_where_they_lie(draw):
    x = draw(2, 9, 4, 12)
    w, b = draw(9), draw(9)
    view, expected = tensor(x).permute(0, 2, 3, 1)[:, 1:, ::2], x.transpose(0, 2, 3, 1)[:, 1:, ::2]
    assert not view.is_contiguous()
    check(nn.silu(view), plain.silu(expected))
    check(nn.layer_norm(view, tensor(w), tensor(b)), plain.layer_norm(expected, w, b))
    check(nn.linear(view, tensor(np.stack([w, b]))), plain.linear(expected, np.stack([w, b])))
    check(nn.attention(view, view, view), plain.attention(expected, expected, expected))
    check(nn.cat([view, view], -2), np.concatenate([expected, expected], -2))
    check(nn.pad(view, (1, 2)), np.pad(expected, [(0, 0)] * 3 + [(1, 2)]))
    check(nn.multiply_add(view, view, view), expected * expected + expected)
    check(nn.multiply(view, 0.5), expected * 0.5)
    check(nn.clip(view, -0.5, 0.5), np.clip(expected, -0.5, 0.5))


def test_results_are_views_that_models_may_transpose(draw):
    q = draw(2, 3, 5, 8)
    out = nn.attention(tensor(q), tensor(q), tensor(q))
    expected = plain.attention(q, q, q).transpose(0, 2, 1, 3).reshape(2, 5, 24)
    check(out.permute(0, 2, 1, 3).reshape(2, 5, 24), expected)
    check(out + 1.0, plain.attention(q, q, q) + 1)


@pytest.mark.parametrize(
    ("x", "factor", "addend"),
    [
        ((2, 70, 33), (2, 1, 33), (2, 1, 33)),
        ((2, 70, 33), (2, 1, 33), (2, 70, 33)),
        ((1, 4, 3, 5, 6),) * 3,
        ((5,), (1,), (5,)),
    ],
)
def test_arithmetic(draw, x, factor, addend):
    a, b, c = draw(*x), draw(*factor), draw(*addend)
    check(nn.multiply_add(tensor(a), tensor(b), tensor(c)), a * b + c)
    check(nn.multiply(tensor(a), tensor(b)), a * b)
    check(nn.multiply(tensor(a), 0.3), a * np.float32(0.3))
    check(nn.add(tensor(a), -2), a - 2)
    check(nn.add(tensor(b), tensor(c)), b + c)


def test_embedding(draw):
    table, ids = draw(11, 6), np.array([[0, 10, 3], [3, 3, 1]], np.int32)
    check(nn.embedding(tensor(ids), tensor(table)), table[ids])


@pytest.mark.parametrize(
    ("mode", "numpy_mode"), [("constant", "constant"), ("replicate", "edge"), ("reflect", "reflect")]
)
@pytest.mark.parametrize("widths", [(1, 2), (2, 0, 1, 3), (1, 1, 0, 2, 3, 1)])
def test_pad_counts_from_the_last_axis(draw, mode, numpy_mode, widths):
    x = draw(2, 3, 4, 5, 6)
    pairs = [(0, 0)] * (5 - len(widths) // 2) + list(zip(widths[::2], widths[1::2], strict=True))[::-1]
    check(nn.pad(tensor(x), widths, mode), np.pad(x, pairs, mode=numpy_mode))


@pytest.mark.parametrize(
    ("widths", "mode"),
    [((1,), "constant"), ((1, -1), "constant"), ((1, 1), "circular"), ((1,) * 6, "constant")],
)
def test_pad_refuses(widths, mode):
    with pytest.raises(ValueError, match="is not allowed"):
        nn.pad(tensor(np.ones((2, 2), np.float32)), widths, mode)


@pytest.mark.parametrize("size", [(3, 5, 7), (6, 10, 14), (1, 2, 3), (4, 13, 7)])
def test_interpolate_nearest_by_size(draw, size):
    x = draw(2, 3, 3, 5, 7)
    check(nn.interpolate_nearest(tensor(x), size=size), plain.interpolate_nearest(x, size))


def test_interpolate_nearest_by_scale(draw):
    x = draw(2, 3, 5, 7)
    check(nn.interpolate_nearest(tensor(x), scale=2.0), x.repeat(2, 2).repeat(2, 3))
    check(nn.interpolate_nearest(tensor(x), scale=(1, 0.5)), x[..., [0, 2, 4]])
    with pytest.raises(ValueError, match="one of size and scale"):
        nn.interpolate_nearest(tensor(x))
    with pytest.raises(ValueError, match="one number or 2"):
        nn.interpolate_nearest(tensor(x), size=(1, 2, 3))


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_cat_of_large_tensors(draw, axis):
    x = draw(3, 70, 40, 50)
    parts = np.split(x, [1], axis)
    check(nn.cat([tensor(part) for part in parts], axis), x)
    with pytest.raises(ValueError, match="do not join"):
        nn.cat([tensor(x), tensor(x[:2, :2, :2, :2])], axis)


def test_cat_of_whole_numbers():
    x = np.arange(6, dtype=np.int32).reshape(2, 3)
    joined = nn.cat([tensor(x), tensor(x)], 1)
    assert joined.dtype == nn.int32
    np.testing.assert_array_equal(nn.to_numpy(joined), np.concatenate([x, x], 1))


def test_joining_and_cutting(draw):
    x, y = draw(2, 5, 3), draw(2, 4, 3)
    check(nn.cat([tensor(x), tensor(y)], 1), np.concatenate([x, y], 1))
    check(nn.stack([tensor(x), tensor(x + 1)], 1), np.stack([x, x + 1], 1))
    for piece, expected in zip(nn.split(tensor(x), [1, 4], 1), np.split(x, [1], 1), strict=True):
        check(piece, expected)
    assert [p.shape for p in nn.split(tensor(x), 2, 1)] == [(2, 2, 3), (2, 2, 3), (2, 1, 3)]
    for piece, expected in zip(nn.chunk(tensor(x), 2, 1), (x[:, :3], x[:, 3:]), strict=True):
        check(piece, expected)
    large = draw(2, 500, 300)
    for piece, expected in zip(
        nn.chunk(tensor(large), 2, -1), (large[..., :150], large[..., 150:]), strict=True
    ):
        check(piece + 1.0, expected + 1)
    halves = nn.chunk(tensor(x).astype(nn.bfloat16), 3, -1)
    assert [h.dtype for h in halves] == [nn.bfloat16] * 3
    np.testing.assert_allclose(nn.to_numpy(halves[1]), x[..., 1:2], rtol=1e-2)
    with pytest.raises(ValueError, match="do not sum to 5"):
        nn.split(tensor(x), [1, 3], 1)


@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 300, 7, 40)])
def test_reshape_and_copy(draw, shape):
    x = draw(*shape)
    for view, expected in [
        (tensor(x), x),
        (tensor(x).permute(*range(len(shape))[::-1]), x.T),
        (tensor(x)[..., 1:4], x[..., 1:4]),
        (tensor(x.astype(np.int32))[:, ::2], x.astype(np.int32)[:, ::2]),
    ]:
        check(nn.reshape(view, (-1,)), expected.reshape(-1))
        check(nn.reshape(view, (expected.shape[0], 1, -1)), expected.reshape(expected.shape[0], 1, -1))
        taken = nn.copy(view)
        assert taken.dtype == view.dtype
        assert taken.is_contiguous()
        assert taken.data_ptr() != view.data_ptr()
        check(taken, expected)
    half = nn.copy(tensor(x).astype(nn.bfloat16)[:, 1:])
    assert half.dtype == nn.bfloat16
    np.testing.assert_allclose(nn.to_numpy(nn.reshape(half, (-1,))), x[:, 1:].reshape(-1), rtol=1e-2)


def test_reshape_copies_only_where_it_must(draw):
    x = tensor(draw(2, 6, 8))
    for view, shape in [(x, (12, 8)), (x[:, :, :4], (2, 6, 2, 2)), (x.permute(0, 2, 1), (2, 8, 3, 2))]:
        assert nn.reshape(view, shape).data_ptr() == view.data_ptr()
    with pytest.raises(ValueError, match="reshape"):
        nn.reshape(x[:, :, :4], (5, 5))


def test_elementwise(draw):
    x = draw(3, 4)
    check(nn.sin(tensor(x)), np.sin(x))
    check(nn.cos(tensor(x)), np.cos(x))
    check(nn.sqrt(tensor(abs(x))), np.sqrt(abs(x)))
    check(nn.clip(tensor(x), -0.5, 0.5), np.clip(x, -0.5, 0.5))
    check(nn.clip(tensor(x), None, 0.5), np.minimum(x, 0.5))
    check(nn.where(tensor(x > 0), tensor(x), 0.0), np.where(x > 0, x, 0))
    check(nn.where(tensor(x > 0), tensor(x), tensor(-x)), abs(x))
    check(nn.zeros((2, 3)), np.zeros((2, 3), np.float32))
    for dtype in (nn.int64, nn.float16, nn.bfloat16):
        assert nn.zeros((0, 3), dtype).dtype == nn.zeros((2, 3), dtype).dtype == dtype
        assert not nn.to_numpy(nn.zeros((2, 3), dtype)).any()
    check(nn.ones([4], nn.float32), np.ones(4, np.float32))


def test_numpy_and_back(draw):
    x = draw(3, 4)
    shared = nn.from_numpy(x)
    x[0, 0] = 42
    assert nn.to_numpy(shared)[0, 0] == 42
    assert nn.to_numpy(nn.from_numpy(x.T)).tolist() == x.T.tolist()
    assert nn.from_numpy(np.float32(3)).shape == ()
    half = nn.from_numpy(x, nn.bfloat16)
    assert half.dtype == nn.bfloat16
    assert nn.to_numpy(half).dtype == np.float32
    np.testing.assert_allclose(nn.to_numpy(half), x, rtol=1e-2)


@pytest.fixture
def threads():
    """Sets the number of compute threads, and restores it afterwards."""
    yield cpu_graphs.set_threads
    cpu_graphs.set_threads(backend.current().threads)


def test_scalars():
    assert nn.to_numpy(nn.add(tensor(np.float32(2)), 1.0)) == 3
    assert nn.to_numpy(nn.multiply(tensor(np.float32(2)), tensor(np.float32(4)))) == 8
    assert nn.to_numpy(nn.copy(tensor(np.float32(2)))) == 2


def test_attention_without_keys_is_zero(draw):
    q, k = draw(2, 3, 5, 8), draw(2, 3, 0, 8)
    assert not nn.to_numpy(nn.attention(tensor(q), tensor(k), tensor(k))).any()
    out, lse = nn.attention_with_lse(tensor(q), tensor(k), tensor(k))
    assert not nn.to_numpy(out).any()
    assert (nn.to_numpy(lse) == -np.inf).all()


def test_groups_that_do_not_divide_the_channels_are_refused(draw):
    with pytest.raises(ValueError, match="4 groups do not divide 6 channels"):
        nn.group_norm(tensor(draw(2, 6, 2)), 4)


def test_weights_that_cannot_be_written_are_read(draw):
    x, weight = draw(3, 5), draw(4, 5)
    weight.flags.writeable = False
    check(nn.linear(tensor(x), tensor(weight)), plain.linear(x, weight))


def test_many_threads_may_compute_the_same(draw):
    inputs = [draw(1, 4, 300, 16) for _ in range(8)]
    with ThreadPoolExecutor(4) as pool:
        outs = list(pool.map(lambda x: nn.attention(*[tensor(x)] * 3), inputs * 5))
    for x, out in zip(inputs * 5, outs, strict=True):
        check(out, plain.attention(x, x, x))


def test_graphs_of_certain_shapes_are_made_while_there_is_room(draw, monkeypatch, threads):
    room = 21 * 2**14
    monkeypatch.setattr(cpu_graphs, "LARGE", 2**12)
    monkeypatch.setattr(cpu_graphs, "_SHAPED_BYTES", room)
    monkeypatch.setattr(cpu_graphs, "_IDLE_CALLS", 7)
    threads(2)
    weight = draw(2, 2, 3, 3, 3)
    kept = []
    for width in range(100, 108):
        x = draw(1, 2, 4, 10, width)
        y = nn.conv3d(tensor(x), tensor(weight), padding=1)
        check(y, plain.convolution(x, weight, padding=1), rtol=1e-5, atol=2e-5)
        graphs = cpu_graphs._graphs._shaped
        kept.append({key[1][0][1][-1] for key in graphs})
        assert sum(shaped.size for shaped in graphs.values()) <= room
    # Full, they stay until they are idle.
    assert kept[4:7] == [{100, 101, 102, 103, 104}] * 3
    assert kept[7] == {101, 102, 103, 104, 107}


def test_what_graphs_know_of_shapes_changes_no_bit(draw, monkeypatch):
    # Which of the two kinds computes depends on what was computed before.
    monkeypatch.setattr(cpu_graphs, "LARGE", 1)
    cases = [
        (partial(nn.conv2d, padding=1), draw(2, 16, 40, 52), draw(24, 16, 3, 3)),
        (partial(nn.conv2d, stride=2), draw(1, 33, 61, 47), draw(5, 33, 3, 3)),
        (nn.conv3d, draw(1, 3, 9, 40, 48), draw(40, 3, 3, 3, 3)),
        (nn.conv3d, draw(1, 64, 3, 30, 30), draw(64, 64, 3, 1, 1)),
        (nn.linear, draw(2, 777, 320), draw(640, 320)),
        (nn.linear, draw(3, 1100, 96), draw(100, 96), draw(100)),
        (nn.matmul, draw(3, 200, 130), draw(130, 70)),
        (
            partial(nn.activated_linear, bias=None, activation="silu", gated=True),
            draw(777, 96),
            draw(640, 96),
        ),
    ]
    results = []
    for room in (0, 2**30):
        monkeypatch.setattr(cpu_graphs, "_SHAPED_BYTES", room)
        results.append([nn.to_numpy(run(*map(tensor, arrays))).tobytes() for run, *arrays in cases])
    assert results[0] == results[1]


def test_the_number_of_threads_changes_no_bit(draw, threads):
    x, w = draw(1500, 70), draw(333, 70)
    q = draw(1, 3, 700, 16)
    video, kernel = draw(1, 20, 4, 33, 40), draw(24, 20, 3, 3, 3)

    def results():
        return [
            nn.to_numpy(y).tobytes()
            for y in (
                nn.linear(tensor(x), tensor(w)),
                nn.activated_linear(tensor(x), tensor(w), None, "gelu_tanh"),
                nn.attention(tensor(q), tensor(q), tensor(q)),
                nn.conv3d(tensor(video), tensor(kernel), padding=1),
                nn.conv3d(tensor(video), tensor(kernel), stride=(1, 2, 2)),
                nn.group_norm(tensor(video), 4),
                nn.layer_norm(tensor(x)),
                nn.gelu(tensor(x)),
                nn.softmax(tensor(x)),
                nn.add(tensor(x), tensor(x[:1])),
                *nn.attention_with_lse(tensor(q), tensor(q), tensor(q)),
            )
        ]

    threads(3)
    three = results()
    assert results() == three
    threads(1)
    assert results() == three
