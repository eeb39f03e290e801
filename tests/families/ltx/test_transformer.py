import numpy as np
import pytest

from tests.families import tiny
from tests.references import case, cases, check_close, largest_difference
from vidgen_dist import nn
from vidgen_dist.errors import Refused
from vidgen_dist.families.ltx.config import TransformerConfig
from vidgen_dist.families.ltx.transformer import LTXVideoTransformer3DModel, rotary_positions

CASES = cases("ltx")
TINY = {
    "in_channels": 3,
    "out_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 10,
    "cross_attention_dim": 20,
    "num_layers": 2,
    "caption_channels": 6,
}
SIZE = (2, 3, 2)
SCALE = (4 / 25, 8, 8)


def loaded(name):
    return tiny.loaded(LTXVideoTransformer3DModel, case(name, "ltx"), "transformer")


def pieces_of(name, step="first"):
    pieces = case(name, "ltx").pieces
    shared = {key: pieces[f"transformer.{key}"] for key in ("size", "rope_interpolation_scale")}
    return tiny.pieces_of(case(name, "ltx"), f"transformer.{step}") | shared


def run(model, pieces):
    """The output for inputs named as in the references."""
    output = model(
        nn.from_numpy(pieces["hidden_states"]),
        nn.from_numpy(pieces["encoder_hidden_states"]),
        pieces["timestep"],
        pieces["encoder_attention_mask"],
        *pieces["size"].tolist(),
        rope_interpolation_scale=tuple(pieces["rope_interpolation_scale"].tolist()),
    )
    return nn.to_numpy(output)


def randomised():
    return tiny.randomised(tiny.made(LTXVideoTransformer3DModel, TINY), scale=0.3)


def inputs(timestep, text=5, own_text=4):
    rng = np.random.default_rng(1)
    tokens = int(np.prod(SIZE))
    return {
        "hidden_states": rng.standard_normal((2, tokens, 3)).astype(np.float32),
        "encoder_hidden_states": rng.standard_normal((2, text, 6)).astype(np.float32),
        "timestep": np.array(timestep, np.float32),
        "encoder_attention_mask": np.arange(text)[None] < np.array([[own_text], [1]]),
        "size": np.array(SIZE),
        "rope_interpolation_scale": np.array(SCALE),
    }


# Against diffusers. ----------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["first", "last"])
@pytest.mark.parametrize("name", CASES)
def test_parity(name, step):
    pieces = pieces_of(name, step)
    check_close(f"transformer {name}, {step} step", run(loaded(name), pieces), pieces["output"], 1e-4)


@pytest.mark.parametrize("name", CASES)
def test_rotary_parity(name):
    pieces, model = case(name, "ltx").pieces, loaded(name)
    size, scale = (pieces[f"transformer.{key}"].tolist() for key in ("size", "rope_interpolation_scale"))
    tables = rotary_positions(model.config.inner_dim, *size, scale)
    for table, key in zip(tables, ("cos", "sin"), strict=True):
        # The largest angles are above 10,000, where float32 has steps of a thousandth: they are exactly
        # equal.
        check_close(f"rotary {key} {name}", table, pieces[f"transformer.rotary_{key}"], 1e-6)


def test_every_parameter_is_used():
    model, pieces = loaded("0.9.0"), pieces_of("0.9.0")
    assert not tiny.without_effect(model, {"": lambda: run(model, pieces)})


# Times, text and positions. --------------------------------------------------------------------


def test_times_by_sample_and_by_token_are_one_thing():
    model = randomised()
    by_sample = run(model, inputs([700.0, 20.0]))
    by_token = run(model, inputs(np.repeat([[700.0], [20.0]], 12, axis=1)))
    np.testing.assert_allclose(by_token, by_sample, atol=1e-5)
    alone = inputs([20.0, 20.0])
    np.testing.assert_allclose(run(model, alone)[1], by_sample[1], atol=1e-5)


def test_a_tokens_time_is_its_own():
    """If tokens are not mixed, each is what it would be if all tokens had its time."""
    model = randomised()
    for block in model.transformer_blocks:
        for parameter in nn.named_parameters(block.attn1.to_out[0]).values():
            parameter.set_data(nn.from_numpy(np.zeros(parameter.shape, np.float32)))
    times = np.full((2, 12), 800.0)
    times[:, :6] = 0
    mixed = run(model, inputs(times))
    np.testing.assert_allclose(mixed[:, :6], run(model, inputs([0.0, 0.0]))[:, :6], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(mixed[:, 6:], run(model, inputs([800.0, 800.0]))[:, 6:], rtol=1e-5, atol=1e-5)


def test_padding_of_the_text_is_not_attended_to():
    model, pieces = randomised(), inputs([500.0, 500.0])
    before = run(model, pieces)
    pieces["encoder_hidden_states"][0, 4:] += 3
    pieces["encoder_hidden_states"][1, 1:] -= 2
    np.testing.assert_allclose(run(model, pieces), before, atol=1e-6)
    pieces["encoder_hidden_states"][1, 0] += 3
    assert largest_difference(run(model, pieces)[1], before[1]) > 1e-3


def test_positions_are_fractions_of_seconds_and_pixels():
    cos, sin = rotary_positions(14, 3, 2, 4, (4 / 25, 32, 16))
    assert cos.shape == sin.shape == (24, 14)
    # Two frequencies, 1 and 10,000 quarter turns; channels that 6 does not divide come first.
    np.testing.assert_array_equal(cos[:, :2], 1)
    np.testing.assert_array_equal(sin[:, :2], 0)
    grid = np.indices((3, 2, 4)).reshape(3, -1)
    fractions = grid * np.array([4 / 25 / 20, 32 / 2048, 16 / 2048])[:, None]
    for axis in range(3):
        angles = (2 * fractions[axis] - 1) * np.pi / 2
        for channel in (2 + 2 * axis, 3 + 2 * axis):
            np.testing.assert_allclose(cos[:, channel], np.cos(angles), atol=1e-6)
            np.testing.assert_allclose(sin[:, channel], np.sin(angles), atol=1e-6)


def test_a_model_renders_one_video_after_another():
    model, pieces = randomised(), inputs([500.0, 500.0])
    first = run(model, pieces)
    other = {**pieces, "size": np.array([3, 2, 2])}
    assert largest_difference(run(model, other), first) > 1e-3
    faster = {**pieces, "rope_interpolation_scale": np.array([4 / 50, 8, 8])}
    assert largest_difference(run(model, faster), first) > 1e-4
    np.testing.assert_array_equal(run(model, pieces), first)


# What is refused. ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation_fn": "snake"}, "activation_fn is 'snake'; allowed is one of gelu,"),
        ({"num_layers": 0}, "num_layers is 0; allowed is a whole number from 1"),
        ({"patch_size": 2}, "patch_size is 2; allowed is 1"),
        ({"patch_size_t": 2}, "patch_size_t is 2; allowed is 1"),
        ({"qk_norm": "layer_norm"}, "qk_norm is 'layer_norm'; allowed is rms_norm_across_heads"),
        ({"attention_head_dim": 9}, "attention_head_dim is 9; allowed is an even number"),
        ({"cross_attention_dim": 32}, "cross_attention_dim is 32; allowed is .*, 20"),
        ({"norm_eps": None}, "norm_eps is None; allowed is a number from 0"),
        ({"norm_eps": -1}, "norm_eps is -1; allowed is a number from 0"),
    ],
)
def test_a_config_that_cannot_be_is_refused_by_its_key(changes, message):
    with pytest.raises(Refused, match=f"^config of LTXVideoTransformer3DModel: {message}"):
        TransformerConfig.read({**TINY, **changes})


def test_an_empty_config_is_the_published_one():
    config = TransformerConfig.read({})
    assert (config.inner_dim, config.num_layers) == (2048, 28)


def test_out_channels_may_be_left_to_in_channels():
    model = tiny.made(LTXVideoTransformer3DModel, {**TINY, "out_channels": None})
    assert model.proj_out.weight.shape == (3, 20)
