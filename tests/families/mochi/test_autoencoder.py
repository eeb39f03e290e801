"""Mochi's autoencoder: parity with diffusers, tiles, refusals."""

import numpy as np
import pytest

from tests.families import tiny
from tests.references import case, cases, largest_difference
from vidgen_dist.errors import Refused
from vidgen_dist.families.common.tiles import StridedTiles
from vidgen_dist.families.mochi.autoencoder import AutoencoderKLMochi
from vidgen_dist.families.mochi.config import VaeConfig

FAMILY = "mochi"
TOLERANCE = 1e-4
CASES = [case(name, FAMILY) for name in cases(FAMILY)]
TINY = {
    "encoder_block_out_channels": [32, 64],
    "decoder_block_out_channels": [32, 32],
    "latent_channels": 2,
    "layers_per_block": [1, 1, 1],
    "temporal_expansions": [3],
    "spatial_expansions": [2],
    "add_attention_block": [False, True, True],
    "latents_mean": None,
    "latents_std": None,
}


def loaded(name, piece):
    """The model, with tiles for a tiled case; and the case's array."""
    model = tiny.loaded(AutoencoderKLMochi, case(name, FAMILY), "vae")
    if piece.startswith("tiled"):
        model.tiles = StridedTiles(32, 24, 24, 16)
        model.enable_tiling()
    return model, tiny.pieces_of(case(name, FAMILY), f"vae.{piece}")


def randomised(mesh=None, **changes):
    return tiny.randomised(tiny.made(AutoencoderKLMochi, {**TINY, **changes}, mesh))


@pytest.mark.parametrize(("name", "piece"), tiny.recordings(CASES, "decode"))
def test_decoding(name, piece):
    tiny.check_decoding(f"{name} {piece}", *loaded(name, piece), TOLERANCE)


@pytest.mark.parametrize(("name", "piece"), tiny.recordings(CASES, "encode"))
def test_encoding(name, piece):
    tiny.check_encoding(f"{name} {piece}", *loaded(name, piece), TOLERANCE)


def test_every_parameter_is_used():
    # Two channels per group: with one, a norm would cancel the bias of the convolution before it.
    wide = [64, 64]
    model = randomised(
        encoder_block_out_channels=wide, decoder_block_out_channels=wide, layers_per_block=[1, 0, 1]
    )
    video, latents = tiny.normal(1, 3, 4, 4, 4), tiny.normal(1, 2, 2, 2, 2)
    runs = {
        "encoder.": lambda: tiny.encode(model, video)[0],
        "decoder.": lambda: tiny.decode(model, latents),
    }
    assert not tiny.without_effect(model, runs)


@pytest.mark.parametrize("at_once", [1, 3])
def test_batches_of_frames_make_what_all_make_at_once(at_once):
    model, latents = randomised(), tiny.normal(1, 2, 5, 2, 3)
    model.latent_frames_at_once = 5
    whole = tiny.decode(model, latents)
    model.latent_frames_at_once = at_once
    np.testing.assert_allclose(tiny.decode(model, latents), whole, atol=1e-5)


@pytest.mark.parametrize("latent_frames", [1, 2, 3])
def test_frame_counts(latent_frames):
    model = randomised()
    frames = 3 * (latent_frames - 1) + 1
    assert tiny.decode(model, tiny.normal(2, 2, latent_frames, 2, 3)).shape == (2, 3, frames, 4, 6)
    for more in range(3):
        mean, _ = tiny.encode(model, tiny.normal(1, 3, frames + more, 4, 6))
        assert mean.shape == (1, 2, (frames + more - 1) // 3 + 1, 2, 3)


def test_frames_do_not_depend_on_later_ones():
    model, video = randomised(), tiny.normal(1, 3, 7, 4, 4)
    changed = video.copy()
    changed[:, :, 4:] += 0.5
    mean, other = (tiny.encode(model, x)[0] for x in (video, changed))
    np.testing.assert_allclose(other[:, :, :2], mean[:, :, :2], atol=1e-5)
    assert largest_difference(other[:, :, 2:], mean[:, :, 2:]) > 1e-2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"act_fn": "snake"}, "act_fn is 'snake'; allowed is one of silu,"),
        ({"in_channels": 3}, "in_channels is 3; allowed is a multiple of 5"),
        ({"encoder_block_out_channels": 32}, "encoder_block_out_channels is 32; allowed is a list"),
        ({"encoder_block_out_channels": [32, 48]}, "encoder_block_out_channels is .* multiples of 32"),
        ({"decoder_block_out_channels": [32]}, "decoder_block_out_channels is .* 2 entries"),
        ({"layers_per_block": [1]}, "layers_per_block is .* 2 entries or more"),
        ({"add_attention_block": [True]}, "add_attention_block is .* 2 entries or more"),
        ({"temporal_expansions": [1, 2]}, "temporal_expansions is .* 1 entries"),
        ({"scaling_factor": 0.0}, r"scaling_factor is 0\.0; allowed is a number above 0"),
        ({"latents_std": [1.0]}, "latents_std is .* as many numbers as latent_channels, 2"),
    ],
)
def test_a_config_that_cannot_be_is_refused_by_its_key(changes, message):
    with pytest.raises(Refused, match=f"^config of AutoencoderKLMochi: {message}"):
        VaeConfig.read({**TINY, **changes})


def test_an_empty_config_is_the_published_one():
    config = VaeConfig.read({})
    assert (config.spatial_compression_ratio, config.temporal_compression_ratio) == (8, 6)


def test_tiles_that_do_not_meet_are_refused():
    with pytest.raises(Refused, match="tiles of 33, one every 192"):
        randomised().enable_tiling(tile_sample_min_height=33)
