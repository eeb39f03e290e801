import numpy as np
import pytest

from tests.families import tiny
from tests.references import case, cases, check_close
from vidgen_dist import nn
from vidgen_dist.errors import Refused
from vidgen_dist.families.cogvideox.config import TransformerConfig
from vidgen_dist.families.cogvideox.transformer import CogVideoXTransformer3DModel, rotary_positions
from vidgen_dist.nn.embeddings import sincos_3d, timestep_embedding
from vidgen_dist.parallel.mesh import alone
from vidgen_dist.parallel.token_split import split_tokens
from vidgen_dist.request import RequestError

TINY = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 4,
    "out_channels": 3,
    "time_embed_dim": 10,
    "text_embed_dim": 6,
    "num_layers": 2,
    "sample_height": 4,
    "sample_width": 6,
    "sample_frames": 9,
    "max_text_seq_length": 5,
}
ROTARY = {"use_rotary_positional_embeddings": True}
LEARNED = {**ROTARY, "use_learned_positional_embeddings": True}
V1_5 = {**ROTARY, "patch_size_t": 2, "sample_height": 8, "sample_width": 10}
STEPS = np.array([999, 37])


def config_of(**changes):
    return TransformerConfig.read({**TINY, **changes})


def loaded(name):
    return tiny.loaded(CogVideoXTransformer3DModel, case(name), "transformer")


def pieces_of(name, step):
    return tiny.pieces_of(case(name), f"transformer.{step}")


def run(model, pieces):
    """The output for inputs named as in the references."""
    output = model(
        nn.from_numpy(pieces["hidden_states"]),
        nn.from_numpy(pieces["encoder_hidden_states"]),
        nn.from_numpy(pieces["timestep"]),
        (pieces["rotary_cos"], pieces["rotary_sin"]) if "rotary_cos" in pieces else None,
        pieces.get("ofs"),
    )
    return nn.to_numpy(output)


def randomised(**changes):
    return tiny.randomised(CogVideoXTransformer3DModel(config_of(**changes)), scale=0.3)


def inputs(frames=3, height=4, width=6, text=5):
    rng = np.random.default_rng(1)
    shapes = {"hidden_states": (2, frames, 4, height, width), "encoder_hidden_states": (2, text, 6)}
    pieces = {key: rng.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}
    return {**pieces, "timestep": STEPS}


def split_of(frames=3, height=4, width=6, text=5):
    return split_tokens(alone(), text=text, video=frames * (height // 2) * (width // 2))


# Against diffusers. ----------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["first", "last"])
@pytest.mark.parametrize("name", cases())
def test_parity(name, step):
    pieces = pieces_of(name, step)
    check_close(f"transformer {name}, {step} step", run(loaded(name), pieces), pieces["output"], 2e-5)


@pytest.mark.parametrize("name", [name for name in cases() if "rotary_cos" in pieces_of(name, "first")])
def test_rotary_parity(name):
    pieces = pieces_of(name, "first")
    _, frames, _, height, width = pieces["hidden_states"].shape
    tables = rotary_positions(loaded(name).config, height * 8, width * 8, frames, 8)
    for table, key in zip(tables, ("rotary_cos", "rotary_sin"), strict=True):
        check_close(f"{key} {name}", table, pieces[key], 1e-6)


# The other cases have no further parameters.
@pytest.mark.parametrize("name", ["2b", "5b", "i2v", "1.5-i2v"])
def test_every_parameter_is_used(name):
    model, pieces = loaded(name), pieces_of(name, "first")
    unused = tiny.without_effect(model, {"": lambda: run(model, pieces)})
    if "rotary_cos" not in pieces:
        # A vector added to all keys shifts all scores of a query equally, which softmax cancels.
        unused = [key for key in unused if not key.endswith("norm_k.bias")]
    assert not unused


# Positions. ------------------------------------------------------------------------------------


def test_rotary_positions_of_the_training_size_count_tokens():
    config = config_of(**ROTARY, sample_height=8, sample_width=12)
    cos, sin = rotary_positions(config, height=64, width=96, latent_frames=2, vae_scale_factor_spatial=8)
    assert cos.shape == sin.shape == (2 * 4 * 6, 16)
    # Channels 0, 4 and 10 rotate by one radian per frame, row and column.
    for channel, positions in zip((0, 4, 10), np.indices((2, 4, 6)), strict=True):
        np.testing.assert_allclose(cos[:, channel], np.cos(positions.ravel()), atol=1e-6)
        np.testing.assert_allclose(sin[:, channel + 1], np.sin(positions.ravel()), atol=1e-6)


@pytest.mark.parametrize(
    ("height", "width", "rows", "columns"),
    [
        # Fewer tokens than the training grid's 4 x 6, with its aspect ratio.
        (32, 48, [0, 2], [0, 2, 4]),
        # Tall: all 4 rows, 3 columns in the middle, 2 to 5.
        (128, 96, np.arange(8) / 2, np.linspace(2, 5 * 5 / 6, 6)),
        # Wide: all 6 columns, and one row at 1.5, rounded to even.
        (32, 192, [2, 1.5], np.arange(12) / 2),
    ],
)
def test_rotary_positions_stretch_over_the_training_grid(height, width, rows, columns):
    config = config_of(**ROTARY, sample_height=8, sample_width=12)
    cos, sin = rotary_positions(config, height, width, 1, 8)
    for table, wave in ((cos, np.cos), (sin, np.sin)):
        table = table.reshape(len(rows), len(columns), 16)
        np.testing.assert_allclose(table[:, 0, 4], wave(np.array(rows)), atol=1e-6)
        np.testing.assert_allclose(table[0, :, 10], wave(np.array(columns)), atol=1e-6)


def test_rotary_positions_of_1_5_count_tokens_from_the_corner():
    cos, _ = rotary_positions(
        config_of(**V1_5), height=48, width=80, latent_frames=3, vae_scale_factor_spatial=8
    )
    cos = cos.reshape(2, 3, 5, 16)
    for channel, positions in zip((0, 4, 10), np.indices((2, 3, 5)), strict=True):
        np.testing.assert_allclose(cos[..., channel], np.cos(positions), atol=1e-6)


@pytest.mark.parametrize(("field", "height", "width"), [("height", 80, 80), ("width", 64, 96)])
def test_1_5_has_no_positions_beyond_its_training_size(field, height, width):
    with pytest.raises(
        RequestError, match=rf"^{field}: .* positions up to {64 if field == 'height' else 80}$"
    ):
        rotary_positions(config_of(**V1_5), height, width, 2, 8)


@pytest.mark.parametrize(("frames", "height", "width"), [(3, 4, 6), (3, 6, 4), (5, 4, 6), (1, 2, 12)])
def test_sincos_positions_fit_every_size(frames, height, width):
    scales = {"spatial_interpolation_scale": 1.3, "temporal_interpolation_scale": 0.7}
    embed = randomised(**scales).patch_embed
    pieces = inputs(frames, height, width)
    text, video = nn.from_numpy(pieces["encoder_hidden_states"]), nn.from_numpy(pieces["hidden_states"])
    split = split_of(frames, height, width)
    without = randomised(**ROTARY).patch_embed(text, video, split)
    text_tokens, tokens = embed(text, video, split)
    np.testing.assert_array_equal(nn.to_numpy(text_tokens), nn.to_numpy(without[0]))
    table = sincos_3d(32, (frames, height // 2, width // 2), **scales)
    np.testing.assert_allclose(nn.to_numpy(tokens), nn.to_numpy(without[1]) + table, atol=1e-6)


def test_a_model_renders_one_size_after_another():
    model = randomised()
    first = run(model, inputs())
    assert run(model, inputs(height=8, width=4)).shape == (2, 3, 3, 8, 4)
    np.testing.assert_array_equal(run(model, inputs()), first)


def test_learned_positions_are_the_checkpoints_and_sincos_for_other_frame_counts():
    model, plain = randomised(**LEARNED).patch_embed, randomised(**ROTARY).patch_embed
    for name in ("proj", "text_proj"):
        for parameter in ("weight", "bias"):
            value = nn.to_numpy(getattr(getattr(model, name), parameter))
            getattr(getattr(plain, name), parameter).set_data(nn.from_numpy(value))

    def added(frames):
        pieces = inputs(frames)
        arguments = [nn.from_numpy(pieces[key]) for key in ("encoder_hidden_states", "hidden_states")]
        arguments.append(split_of(frames))
        streams = zip(model(*arguments), plain(*arguments), strict=True)
        return np.concatenate([nn.to_numpy(ours)[0] - nn.to_numpy(base)[0] for ours, base in streams])

    np.testing.assert_allclose(added(3), nn.to_numpy(model.pos_embedding)[0], atol=1e-6)
    np.testing.assert_allclose(added(2)[:5], 0)
    np.testing.assert_allclose(
        added(2)[5:], sincos_3d(32, (2, 2, 3), spatial_interpolation_scale=1.875), atol=1e-6
    )


@pytest.mark.parametrize("changes", [{}, {"flip_sin_to_cos": False, "freq_shift": 1}])
def test_time_and_ofs_are_embedded_and_added(changes):
    model = randomised(ofs_embed_dim=10, **changes)
    flip, shift = (True, 0) if not changes else (False, 1)

    def embedded(module, steps, dim):
        waves = timestep_embedding(np.array(steps), dim, flip_sin_to_cos=flip, freq_shift=shift)
        return nn.to_numpy(module(nn.from_numpy(waves)))

    expected = embedded(model.time_embedding, STEPS, 32) + embedded(model.ofs_embedding, [2.0], 10)
    np.testing.assert_allclose(
        nn.to_numpy(model._time(STEPS, np.array([2.0]), nn.float32)), expected, atol=1e-6
    )


# What is refused. ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation_fn": "snake"}, "activation_fn is 'snake'; allowed is one of gelu,"),
        ({"timestep_activation_fn": "tanh"}, "timestep_activation_fn is 'tanh'; allowed is one of silu,"),
        ({"num_layers": "2"}, "num_layers is '2'; allowed is a whole number"),
        ({"num_layers": 0}, "num_layers is 0; allowed is a whole number from 1"),
        ({"patch_size": 2.0}, "patch_size is 2.0; allowed is a whole number"),
        ({"norm_eps": None}, "norm_eps is None; allowed is a number"),
        ({"attention_bias": 1}, "attention_bias is 1; allowed is true or false"),
        ({"patch_size_t": "2"}, "patch_size_t is '2'; allowed is a whole number from 1 or null"),
        ({"attention_head_dim": 24, **ROTARY}, "attention_head_dim is 24; allowed is a multiple of 16"),
        ({"attention_head_dim": 12}, "attention_head_dim is 12; allowed is a multiple of 16 when"),
        ({"use_learned_positional_embeddings": True}, "use_learned_positional_embeddings is True"),
        ({"patch_size_t": 2}, "patch_size_t is 2; allowed is null or 1"),
        ({"ofs_embed_dim": 12}, "ofs_embed_dim is 12; allowed is null or time_embed_dim, 10"),
        ({"norm_eps": -1e-5}, "norm_eps is -1e-05; allowed is a number from 0"),
        ({"freq_shift": 16}, "freq_shift is 16.0; allowed is any but the number of frequencies, 16"),
        ({"spatial_interpolation_scale": 0}, "spatial_interpolation_scale is 0.0; allowed is any but 0"),
    ],
)
def test_a_config_that_cannot_be_is_refused_by_its_key(changes, message):
    with pytest.raises(Refused, match=f"^config of CogVideoXTransformer3DModel: {message}"):
        config_of(**changes)


def test_an_empty_config_is_2b():
    config = TransformerConfig.read({})
    assert (config.inner_dim, config.num_layers, config.has_position_table) == (1920, 30, True)


@pytest.mark.parametrize(
    ("changes", "sizes", "message"),
    [
        ({}, {"height": 5}, "5x6"),
        ({}, {"width": 7}, "4x7"),
        (V1_5, {"frames": 3}, "latents of 3 frames"),
        (LEARNED, {"height": 8}, "the learned positions are for 4x6 only"),
        (LEARNED, {"text": 4}, "4 text tokens: the learned positions are for 5"),
        ({"ofs_embed_dim": 10}, {}, "ofs is missing"),
    ],
)
def test_inputs_that_do_not_fit(changes, sizes, message):
    with pytest.raises(ValueError, match=message):
        run(randomised(**changes), inputs(**sizes))


def test_keys_that_the_reference_does_not_know_either() -> None:
    raw = {"use_magic": True, "use_wonder": False, "_name_or_path": "somewhere"}
    TransformerConfig.read(raw)
    assert TransformerConfig.unknown(raw) == {"use_magic": True}
