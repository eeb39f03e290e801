"""The functions on Ascend, checked against MindSpore's signatures and documented conventions without an NPU.

Each kernel that exists only on Ascend is replaced by a stand-in. It binds the call to the kernel's real
signature, checks shapes and dtypes as the documentation demands, and computes the documented result with
NumPy. The result of our function must then equal that of the CPU function.
"""

import inspect
import re

import numpy as np
import pytest
from mindspore import Tensor, mint, ops
from scipy import special

from tests.nn import plain
from vidgen_dist import nn
from vidgen_dist.nn import ascend, cpu
from vidgen_dist.nn.rotary import rotary

F = mint.nn.functional


def signature(function):
    """The real signature; for an overloaded function, which Python shows as (*args, **kwargs), the one in
    its documentation."""
    found = inspect.signature(function)
    if set(found.parameters) != {"args", "kwargs"}:
        return found
    documented = re.search(rf"^\s*{function.__name__}(\(.*?\)) -> ", function.__doc__, re.MULTILINE).group(1)
    scope = {}
    exec(f"def {function.__name__}{documented}: pass", scope)
    return inspect.signature(scope[function.__name__])


@pytest.fixture
def stand_in(monkeypatch):
    """stand_in(module, name, compute): compute takes the bound arguments by name, tensors as arrays.

    What it returns is turned into tensors of the arguments' dtype; a tensor stays as it is.
    """

    def install(module, name, compute):
        real = signature(getattr(module, name))
        calls = []

        def call(*args, **kwargs):
            bound = real.bind(*args, **kwargs)
            bound.apply_defaults()
            calls.append(bound.arguments)
            arrays = {k: nn.to_numpy(v) if isinstance(v, Tensor) else v for k, v in bound.arguments.items()}
            tensors = [v for v in bound.arguments.values() if isinstance(v, Tensor)]
            dtype = next(t.dtype for t in tensors if t.is_floating_point())
            result = compute(**arrays)
            if isinstance(result, tuple):
                return tuple(given(r, dtype) for r in result)
            return given(result, dtype)

        monkeypatch.setattr(module, name, call)
        return calls

    return install


def given(result, dtype):
    return result if isinstance(result, Tensor) else tensor(np.asarray(result, np.float32)).astype(dtype)


def tensor(array, dtype=None):
    return None if array is None else nn.from_numpy(array, dtype)


def draw(*shape, seed=2):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def check(ours, expected, tolerance=2e-5):
    ours, expected = nn.to_numpy(ours), nn.to_numpy(expected)
    assert ours.shape == expected.shape
    np.testing.assert_allclose(ours, expected, rtol=tolerance, atol=tolerance)


# Flash attention. --------------------------------------------------------------------------------


def flash_attention_score(
    query, key, value, head_num, real_shift, attn_mask, scalar_value, input_layout, **rest
):
    """What the documentation of ops.flash_attention_score says, in layout BNSD."""
    assert input_layout == "BNSD"
    batch, heads, n, size = query.shape
    m = key.shape[2]
    assert head_num == heads
    assert size % 16 == 0
    assert size <= 512
    assert key.shape == value.shape == (batch, heads, m, size)
    assert rest == {
        "drop_mask": None,
        "padding_mask": None,
        "prefix": None,
        "actual_seq_qlen": None,
        "actual_seq_kvlen": None,
        "keep_prob": 1.0,
        "pre_tokens": 2147483647,
        "next_tokens": 2147483647,
        "inner_precise": 0,
        "sparse_mode": 0,
    }
    if real_shift is not None:
        assert real_shift.shape in {(batch, heads, n, m), (1, heads, n, m)}
    mask = None
    if attn_mask is not None:
        assert attn_mask.dtype in (np.bool_, np.uint8)
        assert attn_mask.shape in {(batch, heads, n, m), (batch, 1, n, m), (n, m)}
        # 1 is left out. For a row that is left out completely, nothing is promised.
        mask = attn_mask == 0
    assert isinstance(scalar_value, float)
    out = plain.attention(query, key, value, mask, real_shift, scalar_value)
    if mask is not None:
        out = np.where(np.broadcast_to(mask, (batch, heads, n, m)).any(-1, keepdims=True), out, np.nan)
    return out


@pytest.mark.parametrize("size", [16, 40])
@pytest.mark.parametrize(
    ("dtype", "mask_shape"),
    [
        (nn.float16, None),
        (nn.float16, (2, 1, 1, 7)),
        (nn.float16, (2, 3, 5, 7)),
        (nn.float16, (1, 1, 5, 7)),
        (nn.float16, (5, 7)),
        (nn.bfloat16, None),  # with a mask the function needs a kernel that the CPU lacks for bfloat16
    ],
)
@pytest.mark.parametrize("bias_shape", [None, (1, 3, 5, 7), (2, 3, 1, 7)])
def test_flash_attention(stand_in, size, dtype, mask_shape, bias_shape):
    calls = stand_in(ops, "flash_attention_score", flash_attention_score)
    # Rounded to half precision for both, so that both functions see the same numbers.
    q, k, v = (nn.to_numpy(tensor(draw(2, 3, n, size, seed=n), dtype)) for n in (5, 7, 7))
    v = v[:, :, ::-1].copy()
    mask = None if mask_shape is None else draw(*mask_shape, seed=9) > 0
    if mask is not None and mask.shape[-2] > 1:
        mask[..., 0, :] = False  # a query that may attend to no key
    bias = None if bias_shape is None else nn.to_numpy(tensor(draw(*bias_shape, seed=8), dtype))
    ours = ascend.attention(
        *(tensor(x, dtype) for x in (q, k, v)), tensor(mask), tensor(bias, dtype), 1 / size**0.5
    )
    assert ours.dtype == dtype
    expected = cpu.attention(*map(tensor, (q, k, v)), tensor(mask), tensor(bias), 1 / size**0.5)
    check(ours, expected, 1e-2)
    (call,) = calls
    assert call["query"].dtype == call["key"].dtype == call["value"].dtype == dtype
    assert call["real_shift"] is None or call["real_shift"].dtype == dtype


@pytest.mark.parametrize("masked", [False, True])
def test_attention_in_float32_is_plain(stand_in, masked):
    stand_in(F, "softmax", lambda input, dim, **_: plain.softmax(input, dim))
    q, k, v, bias = draw(2, 3, 5, 10), draw(2, 3, 7, 10), draw(2, 3, 7, 10), draw(1, 3, 5, 7)
    mask = draw(2, 1, 5, 7) > 0 if masked else None
    if masked:
        mask[1, 0, 2] = False
    arguments = [tensor(x) for x in (q, k, v, mask, bias)]
    check(ascend.attention(*arguments, 0.3), cpu.attention(*arguments, 0.3))


FUSED_INFER_DEFAULTS = signature(ops.fused_infer_attention_score).parameters


def fused_infer_attention_score(
    query, key, value, atten_mask, num_heads, scale, input_layout, inner_precise, softmax_lse_flag, **rest
):
    """What the documentation of ops.fused_infer_attention_score says, in layout BNSD."""
    assert input_layout == "BNSD"
    assert softmax_lse_flag is True
    assert inner_precise == 0  # high precision; 2 and 3 are not for one query
    batch, heads, n, size = query.shape
    m = key.shape[2]
    assert num_heads == heads <= 256
    assert size % 16 == 0
    assert size <= 512
    assert key.shape == value.shape == (batch, heads, m, size)
    assert rest == {name: FUSED_INFER_DEFAULTS[name].default for name in rest}
    mask = None
    if atten_mask is not None:
        assert atten_mask.dtype in (np.bool_, np.int8, np.uint8)
        assert atten_mask.shape in {(batch, 1, n, m), (1, 1, n, m)}
        # 1 is left out. For a row that is left out completely, nothing is promised.
        mask = atten_mask == 0
    assert isinstance(scale, float)
    out, lse = plain.attention_with_lse(query, key, value, mask, scale)
    if mask is not None:
        some = np.broadcast_to(mask.any(-1), lse.shape)
        out, lse = np.where(some[..., None], out, np.nan), np.where(some, lse, np.nan)
    return out, nn.from_numpy(lse[..., None].astype(np.float32))


MASKS = [None, (2, 1, 1, 7), (1, 1, 5, 7), (5, 7)]


@pytest.mark.parametrize(("n", "size"), [(5, 16), (5, 40), (1, 16)])
@pytest.mark.parametrize(
    ("dtype", "mask_shape"),
    [
        *((dtype, shape) for dtype in (nn.float16, nn.float32) for shape in MASKS),
        (nn.bfloat16, None),  # with a mask the function needs a kernel that the CPU lacks for bfloat16
    ],
)
def test_attention_with_lse(stand_in, n, size, mask_shape, dtype):
    calls = stand_in(ops, "fused_infer_attention_score", fused_infer_attention_score)
    stand_in(F, "softmax", lambda input, dim, **_: plain.softmax(input, dim))
    stand_in(
        mint, "logsumexp", lambda input, dim, keepdim: special.logsumexp(input, axis=dim, keepdims=keepdim)
    )
    q, k, v = (nn.to_numpy(tensor(draw(2, 3, rows, size, seed=rows), dtype)) for rows in (n, 7, 7))
    mask = None if mask_shape is None else draw(*mask_shape, seed=9)[..., -n:, :] > 0
    if mask is not None:
        mask[..., 0, :] = False  # a query that may attend to no key
    out, lse = ascend.attention_with_lse(*(tensor(x, dtype) for x in (q, k, v)), tensor(mask), 0.3)
    assert (out.dtype, lse.dtype) == (dtype, nn.float32)
    expected_out, expected_lse = cpu.attention_with_lse(*map(tensor, (q, k, v)), tensor(mask), 0.3)
    check(out, expected_out, 2e-5 if dtype == nn.float32 else 1e-2)
    check(lse, expected_lse)
    assert len(calls) == (dtype != nn.float32)
    assert all(call["query"].dtype == call["key"].dtype == call["value"].dtype == dtype for call in calls)


# The rest: one native kernel each. ---------------------------------------------------------------


@pytest.mark.parametrize("dtype", [nn.float32, nn.float16])
def test_merge_attention(stand_in, dtype):
    stand_in(mint, "logaddexp", lambda input, other: given(np.logaddexp(input, other), nn.float32))
    outs = [tensor(draw(2, 3, 5, 8, seed=i), dtype) for i in range(2)]
    lses = [draw(2, 3, 5, seed=i) * 3 for i in (2, 3)]
    lses[0][0, 0, :2] = lses[1][0, 0, 1:3] = -np.inf  # no key to attend to, on one side or on both
    out, lse = ascend.merge_attention(outs[0], tensor(lses[0]), outs[1], tensor(lses[1]))
    assert (out.dtype, lse.dtype) == (dtype, nn.float32)
    same = [tensor(nn.to_numpy(x)) for x in outs]
    expected_out, expected_lse = cpu.merge_attention(same[0], tensor(lses[0]), same[1], tensor(lses[1]))
    check(out, expected_out, 2e-5 if dtype == nn.float32 else 1e-2)
    check(lse, expected_lse)


@pytest.mark.parametrize("affine", [True, False])
def test_norms(stand_in, affine):
    def layer_norm(input, normalized_shape, weight, bias, eps):
        assert normalized_shape == input.shape[-1:]
        return plain.layer_norm(input, weight, bias, eps)

    def rms_norm(x, gamma, epsilon):
        return plain.rms_norm(x, gamma, epsilon), 1 / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon)

    stand_in(F, "layer_norm", layer_norm)
    stand_in(
        F,
        "group_norm",
        lambda input, num_groups, weight, bias, eps: plain.group_norm(input, num_groups, weight, bias, eps),
    )
    stand_in(ops, "rms_norm", rms_norm)
    x = tensor(draw(2, 6, 3, 6))
    w, b = (tensor(draw(6, seed=3)), tensor(draw(6, seed=4))) if affine else (None, None)
    modulation = (tensor(draw(2, 1, 1, 6, seed=5)), tensor(draw(2, 1, 1, 6, seed=6)))
    for scale, shift in ((None, None), modulation):
        check(ascend.layer_norm(x, w, b, 1e-3, scale, shift), cpu.layer_norm(x, w, b, 1e-3, scale, shift))
        check(ascend.rms_norm(x, w, 1e-3, scale, shift), cpu.rms_norm(x, w, 1e-3, scale, shift))
    check(ascend.group_norm(x, 3, w, b, 1e-3), cpu.group_norm(x, 3, w, b, 1e-3))
    check(ascend.group_norm(x, 3, w, b, 1e-3, True), cpu.group_norm(x, 3, w, b, 1e-3, True))


@pytest.mark.parametrize("affine", [True, False])
def test_group_norm_in_two_steps(stand_in, affine):
    stand_in(mint, "mean", lambda input, dim, keepdim, **_: input.mean(dim, keepdims=keepdim))
    stand_in(mint, "square", lambda input: np.square(input))
    stand_in(mint, "rsqrt", lambda input: 1 / np.sqrt(input))
    x = tensor(draw(2, 6, 3, 6))
    w, b = (tensor(draw(6, seed=3)), tensor(draw(6, seed=4))) if affine else (None, None)
    moments = ascend.group_moments(x, 3)
    for ours, expected in zip(moments, cpu.group_moments(x, 3), strict=True):
        check(ours, expected)
    check(ascend.group_norm_with(x, 3, *moments, w, b, 1e-3), cpu.group_norm(x, 3, w, b, 1e-3))
    check(ascend.group_norm_with(x, 3, *moments, w, b, 1e-3, True), cpu.group_norm(x, 3, w, b, 1e-3, True))
    half = ascend.group_norm_with(x.astype(nn.float16), 3, *moments, w, b, 1e-3)
    assert half.dtype == nn.float16
    check(half, cpu.group_norm(x, 3, w, b, 1e-3), 5e-3)


def test_rms_norm_of_channels(stand_in):
    stand_in(mint, "mean", lambda input, dim, keepdim, **_: input.mean(dim, keepdims=keepdim))
    stand_in(mint, "square", lambda input: np.square(input))
    stand_in(mint, "rsqrt", lambda input: 1 / np.sqrt(input))
    x = tensor(draw(2, 6, 3, 6))
    check(ascend.channel_rms_norm(x, 1e-3), cpu.channel_rms_norm(x, 1e-3))
    half = ascend.channel_rms_norm(x.astype(nn.float16), 1e-3)
    assert half.dtype == nn.float16
    check(half, cpu.channel_rms_norm(x, 1e-3), 5e-3)


def test_activations(stand_in):
    stand_in(F, "silu", lambda input, inplace: plain.silu(input) if not inplace else None)
    stand_in(F, "gelu", lambda input, approximate: plain.gelu(input, approximate))
    stand_in(F, "softmax", lambda input, dim, **_: plain.softmax(input, dim))
    stand_in(mint, "tanh", lambda input: np.tanh(input))
    stand_in(mint, "exp", lambda input: np.exp(input))
    stand_in(mint, "sin", lambda input: np.sin(input))
    stand_in(mint, "cos", lambda input: np.cos(input))
    stand_in(mint, "sigmoid", lambda input: 1 / (1 + np.exp(-input)))
    x = tensor(draw(3, 5, 4))
    check(ascend.silu(x), cpu.silu(x))
    check(ascend.gelu_tanh(x), cpu.gelu_tanh(x))
    check(ascend.gelu_erf(x), cpu.gelu_erf(x))
    check(ascend.softmax(x, 1), cpu.softmax(x, 1))
    check(ascend.tanh(x), cpu.tanh(x))
    check(ascend.exp(x), cpu.exp(x))
    check(ascend.sin(x), cpu.sin(x))
    check(ascend.cos(x), cpu.cos(x))
    check(ascend.sigmoid(x), cpu.sigmoid(x))


@pytest.mark.parametrize("bias", [True, False])
def test_products(stand_in, bias):
    stand_in(F, "linear", lambda input, weight, bias: plain.linear(input, weight, bias))
    stand_in(mint, "matmul", lambda input, other: input @ other)
    stand_in(F, "embedding", embedding)
    x, w, b = tensor(draw(2, 5, 6)), tensor(draw(3, 6)), tensor(draw(3)) if bias else None
    check(ascend.linear(x, w, b), cpu.linear(x, w, b))
    check(ascend.matmul(x, w.transpose(1, 0)), cpu.matmul(x, w.transpose(1, 0)))
    ids = tensor(np.array([[2, 0]], np.int32))
    np.testing.assert_array_equal(nn.to_numpy(ascend.embedding(ids, w)), nn.to_numpy(cpu.embedding(ids, w)))


@pytest.mark.parametrize("name", ["silu", "gelu", "gelu_tanh", "gelu_sigmoid"])
@pytest.mark.parametrize("gated", [True, False])
def test_activated_products(stand_in, name, gated):
    stand_in(F, "linear", lambda input, weight, bias: plain.linear(input, weight, bias))
    stand_in(F, "silu", lambda input, inplace: plain.silu(input) if not inplace else None)
    stand_in(F, "gelu", lambda input, approximate: plain.gelu(input, approximate))
    stand_in(mint, "sigmoid", lambda input: 1 / (1 + np.exp(-input)))
    stand_in(mint, "chunk", lambda input, chunks, dim: np.split(input, chunks, dim))
    arguments = (tensor(draw(2, 5, 6)), tensor(draw(8, 6)), tensor(draw(8)), name, gated)
    check(ascend.activated_linear(*arguments), cpu.activated_linear(*arguments))


@pytest.mark.parametrize("pairs", ["neighbours", "halves"])
@pytest.mark.parametrize("dtype", [nn.float32, nn.float16])
def test_rotary(stand_in, pairs, dtype):
    stand_in(mint, "matmul", lambda input, other: input @ other)
    angles = draw(1, 5, 1, 4)
    angles = np.repeat(angles, 2, -1) if pairs == "neighbours" else np.tile(angles, 2)
    x = tensor(draw(2, 5, 3, 8))
    tables = rotary(np.cos(angles), np.sin(angles), pairs)
    turned = ascend.rotate(x.astype(dtype), *tables)
    assert turned.dtype == dtype
    check(turned, cpu.rotate(x, *tables), 2e-5 if dtype == nn.float32 else 1e-2)


def embedding(input, weight, padding_idx, max_norm, **_):
    assert (padding_idx, max_norm) == (None, None)
    return weight[input]


@pytest.mark.parametrize("bias", [True, False])
def test_convolutions(stand_in, bias):
    def convolution(input, weight, bias, stride, padding, dilation, groups):
        assert (dilation, groups) == (1, 1)
        return plain.convolution(input, weight, bias, stride, padding)

    stand_in(F, "conv3d", convolution)
    stand_in(F, "conv2d", convolution)
    x, w, b = tensor(draw(1, 4, 5, 6, 7)), tensor(draw(3, 4, 3, 2, 3)), tensor(draw(3)) if bias else None
    check(ascend.conv3d(x, w, b, (1, 2, 1), (0, 1, 1)), cpu.conv3d(x, w, b, (1, 2, 1), (0, 1, 1)))
    check(
        ascend.conv2d(x[0], tensor(draw(3, 5, 3, 2)), b, (2, 1), (1, 0)),
        cpu.conv2d(x[0], tensor(draw(3, 5, 3, 2)), b, (2, 1), (1, 0)),
    )


@pytest.mark.parametrize("mode", ["constant", "replicate", "reflect"])
@pytest.mark.parametrize(("rank", "axes"), [(3, 1), (4, 1), (4, 2), (5, 1), (5, 2), (5, 3)])
def test_pad(stand_in, mode, rank, axes):
    def pad_ext(input, pad, mode, value):
        assert value is None
        # Documented for Ascend: a constant pads any number of axes; other modes all axes but the first two.
        assert mode == "constant" or len(pad) == 2 * (input.ndim - 2)
        pairs = [(0, 0)] * (input.ndim - len(pad) // 2) + list(zip(pad[::2], pad[1::2], strict=True))[::-1]
        return np.pad(input, pairs, mode="edge" if mode == "replicate" else mode)

    stand_in(F, "pad", pad_ext)
    x, widths = tensor(draw(2, 3, 4, 5, 6)[(0,) * (5 - rank)]), (1, 2, 0, 1, 2, 1)[: 2 * axes]
    check(ascend.pad(x, widths, mode), cpu.pad(x, widths, mode))


def test_take(stand_in):
    def index_select(input, dim, index):
        assert index.ndim == 1
        assert index.dtype in (np.int32, np.int64)
        return np.take(input, index, dim)

    stand_in(mint, "index_select", index_select)
    x = tensor(draw(2, 3, 4, 5))
    indices = [np.array([0, 0, 3, 3]), np.array([4, 1])]
    check(ascend.take(x, indices), cpu.take(x, indices))


def test_arithmetic():
    x, y = tensor(draw(2, 3, 4)), tensor(draw(2, 1, 4))
    check(ascend.add(x, y), cpu.add(x, y))
    check(ascend.multiply(x, y), cpu.multiply(x, y))
    check(ascend.multiply(x, 0.3), cpu.multiply(x, 0.3))
    check(ascend.clip(x, None, 0.5), cpu.clip(x, None, 0.5))
    check(ascend.multiply_add(x, y, y), cpu.multiply_add(x, y, y))
    check(ascend.cat((x, y), 1), cpu.cat((x, y), 1))
    check(ascend.reshape(x, (4, -1)), cpu.reshape(x, (4, -1)))
    check(ascend.copy(x), cpu.copy(x))
    check(ascend.zeros((2, 0), nn.float32), cpu.zeros((2, 0), nn.float32))
    check(ascend.zeros((2, 3), nn.float32), cpu.zeros((2, 3), nn.float32))
    for ours, expected in zip(ascend.split(x, (1, 3), 2), cpu.split(x, (1, 3), 2), strict=True):
        check(ours, expected)


def test_both_bodies_offer_the_same():
    def functions(module):
        return {
            name: [p.name for p in inspect.signature(f).parameters.values()]
            for name, f in inspect.getmembers(module, inspect.isfunction)
            if f.__module__ == module.__name__ and not name.startswith("_")
        }

    assert functions(ascend) == functions(cpu)
