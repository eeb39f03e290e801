"""HunyuanVideo's transformer: parity with diffusers, what padding does, refusals."""

import numpy as np
import pytest

from tests.families import tiny
from tests.references import case, cases, check_close
from vidgen_dist import nn
from vidgen_dist.errors import Refused
from vidgen_dist.families.hunyuan_video.config import TransformerConfig
from vidgen_dist.families.hunyuan_video.transformer import (
    HunyuanVideoTransformer3DModel,
    from_patches,
    refiner_mask,
    to_patches,
)

FAMILY = "hunyuan_video"
TINY = {
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "rope_axes_dim": [4, 2, 2],
    "in_channels": 3,
    "out_channels": 2,
    "num_layers": 1,
    "num_single_layers": 1,
    "num_refiner_layers": 1,
    "patch_size_t": 2,
    "text_embed_dim": 6,
    "pooled_projection_dim": 5,
}


def loaded(name):
    return tiny.loaded(HunyuanVideoTransformer3DModel, case(name, FAMILY), "transformer")


def pieces_of(name, step):
    return tiny.pieces_of(case(name, FAMILY), f"transformer.{step}")


def run(model, pieces):
    """The output for inputs named as in the references."""
    output = model(
        nn.from_numpy(pieces["hidden_states"]),
        pieces["timestep"],
        nn.from_numpy(pieces["encoder_hidden_states"]),
        pieces["encoder_attention_mask"],
        nn.from_numpy(pieces["pooled_projections"]),
        pieces.get("guidance"),
    )
    return nn.to_numpy(output)


def randomised(**changes):
    return tiny.randomised(tiny.made(HunyuanVideoTransformer3DModel, {**TINY, **changes}), scale=0.3)


def inputs(frames=2, height=4, width=6, tokens=(5, 3)):
    """Random inputs, with one sample for each of these numbers of tokens."""
    rng = np.random.default_rng(1)
    return {
        **tiny.denoiser_inputs(rng, 6, frames, height, width, tokens),
        "pooled_projections": rng.standard_normal((len(tokens), 5)).astype(np.float32),
        "guidance": np.linspace(6000, 1000, len(tokens)),
    }


@pytest.mark.parametrize("step", ["first", "last"])
@pytest.mark.parametrize("name", cases(FAMILY))
def test_parity(name, step):
    pieces = pieces_of(name, step)
    # A guidance of 6,000 magnifies the last bit of the sinusoids' frequencies to a visible difference.
    check_close(f"transformer {name}, {step} step", run(loaded(name), pieces), pieces["output"], 1e-4)


def test_samples_of_a_batch_do_not_see_each_other():
    model, both = randomised(), inputs(tokens=(5, 1, 6))
    alone = [run(model, tiny.part(both, slice(i, i + 1))) for i in range(3)]
    np.testing.assert_allclose(run(model, both), np.concatenate(alone), atol=1e-4)


def test_padding_changes_nothing():
    model, pieces = randomised(), inputs(tokens=(4,))
    before = run(model, pieces)
    pieces["encoder_hidden_states"][:, 4:] = 7
    np.testing.assert_array_equal(run(model, pieces), before)
    longer = np.pad(pieces["encoder_hidden_states"], [(0, 0), (0, 3), (0, 0)])
    mask = np.pad(pieces["encoder_attention_mask"], [(0, 0), (0, 3)])
    padded = run(model, {**pieces, "encoder_hidden_states": longer, "encoder_attention_mask": mask})
    np.testing.assert_allclose(padded, before, atol=1e-4)


def test_who_attends_to_whom_in_the_refiner():
    allowed = refiner_mask(np.array([[True, True, False], [False, True, True]]))
    assert allowed[0, 0].tolist() == [[True, True, False], [True, True, False], [True, False, False]]
    assert allowed[1, 0].tolist() == [[True, False, False], [True, True, True], [True, True, True]]


@pytest.mark.parametrize("patch", [(1, 2, 2), (2, 1, 3)])
def test_patches_and_back(patch):
    x = np.arange(2 * 3 * 4 * 6 * 12, dtype=np.float32).reshape(2, 3, 4, 6, 12)
    patches = nn.to_numpy(to_patches(nn.from_numpy(x), patch))
    t, p, q = patch
    np.testing.assert_array_equal(patches[1, 0], x[1, :, :t, :p, :q].reshape(-1))
    np.testing.assert_array_equal(patches[0, -1], x[0, :, -t:, -p:, -q:].reshape(-1))
    grid = (4 // t, 6 // p, 12 // q)
    np.testing.assert_array_equal(nn.to_numpy(from_patches(nn.from_numpy(patches), grid, patch)), x)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 0}, "num_layers is 0; allowed is a whole number from 1"),
        ({"qk_norm": "layer_norm"}, "qk_norm is 'layer_norm'; allowed is rms_norm"),
        (
            {"image_condition_type": "latent_concat"},
            "image_condition_type is 'latent_concat'; allowed is null",
        ),
        ({"rope_axes_dim": [4, 2]}, "rope_axes_dim is .*; allowed is a list of 3, each .* a multiple of 2"),
        (
            {"rope_axes_dim": [3, 3, 2]},
            "rope_axes_dim is .*; allowed is a list of 3, each .* a multiple of 2",
        ),
        ({"rope_axes_dim": [4, 4, 2]}, "rope_axes_dim is .*; allowed is numbers that sum to .*, 8"),
        ({"patch_size": "2"}, "patch_size is '2'; allowed is a whole number"),
    ],
)
def test_a_config_that_cannot_be_is_refused_by_its_key(changes, message):
    with pytest.raises(Refused, match=f"^config of HunyuanVideoTransformer3DModel: {message}"):
        TransformerConfig.read({**TINY, **changes})


def test_mlp_ratio_is_not_the_refiners():
    parameters = nn.named_parameters(randomised(mlp_ratio=2.0))
    for block, ratio in {
        "transformer_blocks.0": 2,
        "context_embedder.token_refiner.refiner_blocks.0": 4,
    }.items():
        inner, dim = parameters[f"{block}.ff.net.0.proj.weight"].shape
        assert inner == ratio * dim


def test_an_empty_config_is_the_published_one():
    config = TransformerConfig.read({})
    assert (config.inner_dim, config.mlp_dim, config.patch) == (3072, 12288, (1, 2, 2))
    assert config.rope_axes_dim == (16, 56, 56)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"height": 5}, r"latents of \(2, 5, 6\)"),
        ({"frames": 3}, r"latents of \(3, 4, 6\)"),
        ({"tokens": (3, 0)}, "a prompt has no token"),
    ],
)
def test_inputs_that_do_not_fit(sizes, message):
    with pytest.raises(ValueError, match=message):
        run(randomised(), inputs(**sizes))


def test_guidance_is_needed_where_it_is_embedded():
    with pytest.raises(ValueError, match="guidance is missing"):
        run(randomised(), {**inputs(), "guidance": None})
    unguided = randomised(guidance_embeds=False)
    np.testing.assert_array_equal(run(unguided, {**inputs(), "guidance": None}), run(unguided, inputs()))
