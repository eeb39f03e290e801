"""Mochi's transformer: parity with diffusers, what padding does, refusals."""

import numpy as np
import pytest

from tests.families import tiny
from tests.references import case, cases, check_close, largest_difference
from vidgen_dist import nn
from vidgen_dist.errors import Refused
from vidgen_dist.families.mochi.config import TransformerConfig
from vidgen_dist.families.mochi.transformer import MochiTransformer3DModel, positions, rotary_angles

FAMILY = "mochi"
TINY = {
    "num_attention_heads": 2,
    "attention_head_dim": 6,
    "num_layers": 2,
    "pooled_projection_dim": 5,
    "in_channels": 3,
    "out_channels": 2,
    "text_embed_dim": 8,
    "time_embed_dim": 4,
}


def loaded(name):
    return tiny.loaded(MochiTransformer3DModel, case(name, FAMILY), "transformer")


def pieces_of(name, step):
    return tiny.pieces_of(case(name, FAMILY), f"transformer.{step}")


def run(model, pieces):
    """The output for inputs named as in the references."""
    output = model(
        nn.from_numpy(pieces["hidden_states"]),
        nn.from_numpy(pieces["encoder_hidden_states"]),
        pieces["timestep"],
        pieces["encoder_attention_mask"],
    )
    return nn.to_numpy(output)


def randomised(**changes):
    return tiny.randomised(tiny.made(MochiTransformer3DModel, {**TINY, **changes}), scale=0.3)


def inputs(frames=2, height=4, width=6, tokens=(5, 3)):
    """Random inputs, with one sample for each of these numbers of tokens."""
    rng = np.random.default_rng(1)
    return tiny.denoiser_inputs(rng, 8, frames, height, width, tokens)


@pytest.mark.parametrize("step", ["first", "last"])
@pytest.mark.parametrize("name", cases(FAMILY))
def test_parity(name, step):
    pieces = pieces_of(name, step)
    check_close(f"transformer {name}, {step} step", run(loaded(name), pieces), pieces["output"], 1e-4)


@pytest.mark.parametrize("name", cases(FAMILY))
def test_rotary_parity(name):
    model, pieces = loaded(name), case(name, FAMILY).pieces
    _, _, frames, height, width = pieces["transformer.first.hidden_states"].shape
    angles = rotary_angles(nn.to_numpy(model.pos_frequencies), positions(frames, height // 2, width // 2))
    for wave, key in ((np.cos, "cos"), (np.sin, "sin")):
        check_close(f"rotary {key} {name}", wave(angles), pieces[f"transformer.rotary_{key}"], 1e-4)


def test_every_parameter_is_used():
    model, pieces = randomised(), inputs()

    def output():
        model._rotary = None
        return run(model, pieces)

    unused = tiny.without_effect(model, {"": output})
    assert unused == [f"transformer_blocks.1.attn1.{name}.weight" for name in ("add_q_proj", "norm_added_q")]


def test_samples_of_a_batch_do_not_see_each_other():
    model, both = randomised(), inputs(tokens=(5, 0, 6))
    alone = [run(model, tiny.part(both, slice(i, i + 1))) for i in range(3)]
    np.testing.assert_allclose(run(model, both), np.concatenate(alone), atol=1e-5)


def test_padding_changes_nothing():
    model, pieces = randomised(), inputs(tokens=(4, 0))
    before = run(model, pieces)
    pieces["encoder_hidden_states"][0, 4:] = 7
    pieces["encoder_hidden_states"][1] = 7
    np.testing.assert_allclose(run(model, pieces), before, atol=1e-6)
    pieces["encoder_hidden_states"][0, 3] += 1
    assert largest_difference(run(model, pieces), before) > 1e-3


def test_positions_fill_the_base_area():
    at = positions(2, 3, 12)
    assert at.shape == (72, 3)
    # 192 * 192 over 36 tokens: a spacing of 32.
    np.testing.assert_allclose(at[0], (0, -32, -176))
    np.testing.assert_allclose(at[1] - at[0], (0, 0, 32))
    np.testing.assert_allclose(at[12] - at[0], (0, 32, 0))
    np.testing.assert_allclose(at[36] - at[0], (1, 0, 0))
    np.testing.assert_allclose(at[-1], (1, 32, 176))


def test_a_model_renders_one_size_after_another():
    model, pieces = randomised(), inputs()
    first = run(model, pieces)
    other = inputs(height=6, width=4)
    assert run(model, other).shape == (2, 2, 2, 6, 4)
    np.testing.assert_array_equal(run(model, pieces), first)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 0}, "num_layers is 0; allowed is a whole number from 1"),
        ({"attention_head_dim": 5}, "attention_head_dim is 5; allowed is an even number"),
        ({"text_embed_dim": 12}, "text_embed_dim is 12; allowed is a multiple of 8"),
        ({"activation_fn": "snake"}, "activation_fn is 'snake'; allowed is one of gelu,"),
        ({"patch_size": "2"}, "patch_size is '2'; allowed is a whole number"),
    ],
)
def test_a_config_that_cannot_be_is_refused_by_its_key(changes, message):
    with pytest.raises(Refused, match=f"^config of MochiTransformer3DModel: {message}"):
        TransformerConfig.read({**TINY, **changes})


def test_an_empty_config_is_the_published_one():
    config = TransformerConfig.read({})
    assert (config.inner_dim, config.output_channels, config.patch) == (3072, 12, (1, 2, 2))


def test_latents_that_the_patches_do_not_fit():
    with pytest.raises(ValueError, match="latents of 5 x 6: patches of 2 x 2"):
        run(randomised(), inputs(height=5))
