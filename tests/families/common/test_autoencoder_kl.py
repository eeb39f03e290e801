"""The image autoencoder: parity with diffusers, tiles, old names of weights, dtypes, refusals."""

from types import SimpleNamespace

import numpy as np
import pytest

from tests.families import tiny
from tests.references import component
from vidgen_dist import nn
from vidgen_dist.errors import Refused
from vidgen_dist.families.common.autoencoder_kl import AutoencoderKL
from vidgen_dist.families.common.autoencoder_kl_config import AutoencoderKLConfig

TOLERANCE = 1e-4
NAMES = ("autoencoder_kl", "autoencoder_kl_plain")
TINY = {
    "block_out_channels": [8, 16],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "latent_channels": 2,
    "norm_num_groups": 4,
}
CASES = [SimpleNamespace(name=name, pieces=component(name)[1]) for name in NAMES]


def loaded(name, piece):
    """The model, with tiles for a tiled case; and the case's array."""
    folder, pieces = component(name)
    model = tiny.loaded_from(AutoencoderKL, folder)
    if piece.startswith("tiled"):
        model.enable_tiling()
    start = f"vae.{piece}."
    return model, {key.removeprefix(start): value for key, value in pieces.items() if key.startswith(start)}


def randomised(mesh=None, **changes):
    return tiny.randomised(tiny.made(AutoencoderKL, {**TINY, **changes}, mesh))


@pytest.mark.parametrize(("name", "piece"), tiny.recordings(CASES, "decode"))
def test_decoding(name, piece):
    tiny.check_decoding(f"{name} {piece}", *loaded(name, piece), TOLERANCE)


@pytest.mark.parametrize(("name", "piece"), tiny.recordings(CASES, "encode"))
def test_encoding(name, piece):
    tiny.check_encoding(f"{name} {piece}", *loaded(name, piece), TOLERANCE)


def test_the_reference_has_the_old_names_of_attention():
    model, _ = loaded("autoencoder_kl", "decode")
    old = "decoder.mid_block.attentions.0.{}.weight"
    assert model.own_key(old.format("proj_attn")) == old.format("to_out.0")
    assert model.own_key(old.format("query")) == old.format("to_q")
    assert model.own_key(old.format("group_norm")) == old.format("group_norm")
    assert model.own_key("encoder.value.weight") == "encoder.value.weight"


def test_every_parameter_is_used():
    model = randomised()
    video, latents = tiny.normal(1, 3, 1, 8, 8), tiny.normal(1, 2, 1, 4, 4)
    runs = {
        "encoder.": lambda: tiny.encode(model, video)[0],
        "quant_conv.": lambda: tiny.encode(model, video)[0],
        "decoder.": lambda: tiny.decode(model, latents),
        "post_quant_conv.": lambda: tiny.decode(model, latents),
    }
    # An offset that all keys share has no effect.
    keys = [f"{half}.mid_block.attentions.0.to_k.bias" for half in ("encoder", "decoder")]
    assert tiny.without_effect(model, runs) == keys


@pytest.mark.parametrize("chunk", [1, 2, 7])
def test_frames_decoded_in_chunks_are_those_decoded_at_once(chunk):
    model, latents = randomised(), tiny.normal(2, 2, 5, 3, 2)
    whole = tiny.decode(model, latents)
    assert whole.shape == (2, 3, 5, 6, 4)
    np.testing.assert_allclose(tiny.decode(model, latents, chunk), whole, atol=1e-5)


def test_what_goes_in_takes_the_dtype_of_the_weights():
    """Decoding, and the other models, may compute in half precision."""
    model = randomised()
    assert model.encode(nn.from_numpy(tiny.normal(1, 3, 1, 4, 4), nn.float16))[0].dtype == nn.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"act_fn": "snake"}, "act_fn is 'snake'; allowed is one of silu,"),
        ({"block_out_channels": [8, 14]}, r"block_out_channels is \(8, 14\); .* multiples of 4"),
        ({"block_out_channels": [8]}, "down_block_types is .* a list of 1"),
        ({"up_block_types": ["UpDecoderBlock2D"]}, "up_block_types is .* a list of 2"),
        ({"down_block_types": ["AttnDownEncoderBlock2D"] * 2}, ".*each DownEncoderBlock2D"),
        ({"out_channels": 4}, "out_channels is 4; allowed is 3"),
        ({"scaling_factor": 0.0}, r"scaling_factor is 0\.0; allowed is a number above 0"),
        ({"shift_factor": 0.1}, r"shift_factor is 0\.1; allowed is null"),
        ({"latents_mean": [0.1]}, r"latents_mean is \[0\.1\]; allowed is null"),
        ({"sample_size": [32, 32]}, r"sample_size is \[32, 32\]; allowed is a whole number"),
    ],
)
def test_a_config_that_cannot_be_is_refused_by_its_key(changes, message):
    with pytest.raises(Refused, match=f"^config of AutoencoderKL: {message}"):
        AutoencoderKLConfig.read({**TINY, **changes})


def test_tiles_that_do_not_meet_are_refused():
    with pytest.raises(Refused, match=r"tiles of 10 pixels that overlap by 0\.25"):
        randomised(sample_size=10).enable_tiling()
