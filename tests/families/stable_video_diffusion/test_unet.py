"""Stable Video Diffusion's UNet: parity with diffusers, sizes that do not halve, refusals."""

import numpy as np
import pytest

from tests.families import tiny
from tests.references import case, cases, check_close, largest_difference
from vidgen_dist import nn
from vidgen_dist.errors import Refused
from vidgen_dist.families.stable_video_diffusion.config import UNetConfig
from vidgen_dist.families.stable_video_diffusion.unet import UNetSpatioTemporalConditionModel

FAMILY = "stable_video_diffusion"
TOLERANCE = 1e-4
TINY = {
    "block_out_channels": [32, 64],
    "down_block_types": ["CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"],
    "up_block_types": ["UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"],
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 12,
    "layers_per_block": [1, 2],
    "cross_attention_dim": 6,
    "num_attention_heads": [2, 4],
}


def predict(model, latents, timesteps, image, time_ids):
    return nn.to_numpy(model(nn.from_numpy(latents), timesteps, nn.from_numpy(image), time_ids))


def inputs(batch=1, frames=2, size=(4, 4)):
    return (
        tiny.normal(batch, frames, 8, *size),
        np.linspace(0.3, -1.2, batch, dtype=np.float32),
        tiny.normal(batch, 1, 6, seed=2),
        np.array([[6, 127, 0.02]] * batch, np.float32),
    )


@pytest.mark.parametrize("name", cases(FAMILY))
def test_parity(name):
    recorded = tiny.pieces_of(case(name, FAMILY), "unet")
    model = tiny.loaded(UNetSpatioTemporalConditionModel, case(name, FAMILY), "unet")
    keys = ("latents", "timestep", "encoder_hidden_states", "added_time_ids")
    latents, timestep, image, time_ids = (recorded[key] for key in keys)
    ours = predict(model, latents, np.repeat(timestep, len(latents)), image, time_ids)
    check_close(f"UNet, {name}", ours, recorded["output"], TOLERANCE)


@pytest.mark.parametrize("size", [(1, 1), (5, 3)])
def test_sizes_that_do_not_halve(size):
    """The prediction has the latents' rows and columns."""
    model = tiny.randomised(tiny.made(UNetSpatioTemporalConditionModel, TINY))
    assert predict(model, *inputs(2, 3, size)).shape == (2, 3, 4, *size)


def test_samples_do_not_see_each_other():
    model = tiny.randomised(tiny.made(UNetSpatioTemporalConditionModel, TINY))
    both, given = inputs(2), [value[1:] for value in inputs(2)]
    np.testing.assert_allclose(predict(model, *both)[1:], predict(model, *given), atol=1e-4)


def test_attention_to_one_token_is_that_to_two_alike():
    model = tiny.randomised(tiny.made(UNetSpatioTemporalConditionModel, TINY))
    latents, timesteps, image, time_ids = inputs(2)
    twice = np.concatenate([image, image], axis=1)
    expected = predict(model, latents, timesteps, twice, time_ids)
    np.testing.assert_allclose(predict(model, latents, timesteps, image, time_ids), expected, atol=1e-5)
    other = predict(model, latents, timesteps, image[::-1], time_ids)
    assert largest_difference(other, expected) > 1e-3


def test_frames_see_each_other():
    model, (latents, *others) = tiny.randomised(tiny.made(UNetSpatioTemporalConditionModel, TINY)), inputs()
    before, changed = predict(model, latents, *others), latents.copy()
    changed[:, 1] += 1
    assert largest_difference(predict(model, changed, *others)[:, 0], before[:, 0]) > 1e-3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_out_channels": [32, 48]}, r"block_out_channels is \(32, 48\); .* multiples of 32"),
        ({"down_block_types": ["DownBlock2D"] * 2}, "down_block_types is .* one of CrossAttnDownBlockSpatio"),
        ({"up_block_types": ["UpBlockSpatioTemporal"]}, "up_block_types is .* 2 entries"),
        ({"layers_per_block": [1]}, r"layers_per_block is \(1,\); allowed is 2 entries"),
        ({"num_attention_heads": [2, 3]}, r"num_attention_heads is \(2, 3\); allowed is divisors of"),
        ({"num_attention_heads": None}, "num_attention_heads is None; allowed is a whole number"),
        ({"cross_attention_dim": [6]}, r"cross_attention_dim is \(6,\); allowed is 2 entries"),
        ({"transformer_layers_per_block": [[1], [1]]}, "transformer_layers_per_block is .* whole number"),
        ({"addition_time_embed_dim": 5}, "projection_class_embeddings_input_dim is 12; .* 3 times .* 5"),
        ({"num_frames": 0}, "num_frames is 0; allowed is a whole number from 1"),
    ],
)
def test_a_config_that_cannot_be_is_refused_by_its_key(changes, message):
    with pytest.raises(Refused, match=f"^config of UNetSpatioTemporalConditionModel: {message}"):
        UNetConfig.read({**TINY, **changes})


def test_an_empty_config_is_that_of_img2vid_xt():
    config = UNetConfig.read({})
    assert (config.num_frames, config.level(-1).heads, config.level(0).cross_attention_dim) == (25, 20, 1024)
