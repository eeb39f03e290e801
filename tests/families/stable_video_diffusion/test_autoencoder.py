"""Stable Video Diffusion's autoencoder: parity with diffusers, chunks of frames, refusals."""

import numpy as np
import pytest

from tests.families import tiny
from tests.references import case, cases, largest_difference
from vidgen_dist.errors import Refused
from vidgen_dist.families.stable_video_diffusion.autoencoder import AutoencoderKLTemporalDecoder
from vidgen_dist.families.stable_video_diffusion.config import VaeConfig
from vidgen_dist.spec import ModelOptions

FAMILY = "stable_video_diffusion"
TOLERANCE = 1e-4
CASES = [case(name, FAMILY) for name in cases(FAMILY)]
TINY = {
    "block_out_channels": [32, 64],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "layers_per_block": 2,
    "latent_channels": 2,
}


def randomised(**changes):
    return tiny.randomised(tiny.made(AutoencoderKLTemporalDecoder, {**TINY, **changes}))


@pytest.mark.parametrize(("name", "piece"), tiny.recordings(CASES, "decode"))
def test_decoding(name, piece):
    model = tiny.loaded(AutoencoderKLTemporalDecoder, case(name, FAMILY), "vae")
    recorded = tiny.pieces_of(case(name, FAMILY), f"vae.{piece}")
    tiny.check_decoding(f"{name} {piece}", model, recorded, TOLERANCE)


@pytest.mark.parametrize(("name", "piece"), tiny.recordings(CASES, "encode"))
def test_encoding(name, piece):
    model = tiny.loaded(AutoencoderKLTemporalDecoder, case(name, FAMILY), "vae")
    recorded = tiny.pieces_of(case(name, FAMILY), f"vae.{piece}")
    tiny.check_encoding(f"{name} {piece}", model, recorded, TOLERANCE)


def test_frames_of_a_chunk_see_each_other_and_no_others():
    model, latents = randomised(), tiny.normal(1, 2, 5, 2, 3)
    whole, chunks = tiny.decode(model, latents), tiny.decode(model, latents, 2)
    assert whole.shape == chunks.shape == (1, 3, 5, 4, 6)
    assert largest_difference(whole, chunks) > 1e-3
    for start in (0, 2, 4):
        alone = tiny.decode(model, latents[:, :, start : start + 2])
        np.testing.assert_array_equal(chunks[:, :, start : start + 2], alone)
    np.testing.assert_array_equal(tiny.decode(model, latents, 7), whole)


def test_the_encoder_may_be_upcast_and_the_decoder_is_not():
    upcast = {"encoder.": "float32", "quant_conv.": "float32"}
    assert randomised().own_dtypes("float16") == upcast
    assert randomised().own_dtypes("bfloat16") == {}
    assert randomised(force_upcast=False).own_dtypes("float16") == {}


def test_it_has_no_tiles():
    with pytest.raises(Refused, match=r"vae_tiling: .* works without tiles: .* decode_chunk_size"):
        randomised().configure(ModelOptions(id="m", vae_tiling=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_out_channels": [32, 40]}, r"block_out_channels is \(32, 40\); .* multiples of 32"),
        ({"down_block_types": ["DownEncoderBlock2D"]}, "down_block_types is .* a list of 2"),
        ({"force_upcast": 1}, "force_upcast is 1; allowed is true or false"),
        ({"layers_per_block": 0}, "layers_per_block is 0; allowed is a whole number from 1"),
        ({"scaling_factor": -1.0}, r"scaling_factor is -1\.0; allowed is a number above 0"),
    ],
)
def test_a_config_that_cannot_be_is_refused_by_its_key(changes, message):
    with pytest.raises(Refused, match=f"^config of AutoencoderKLTemporalDecoder: {message}"):
        VaeConfig.read({**TINY, **changes})
