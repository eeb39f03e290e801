import numpy as np
import pytest

from tests.families import tiny
from tests.references import case, cases, check_close, largest_difference
from vidgen_dist import nn
from vidgen_dist.errors import Refused
from vidgen_dist.families.common.tiles import StridedTiles
from vidgen_dist.families.ltx import autoencoder as ltx
from vidgen_dist.families.ltx.autoencoder import AutoencoderKLLTXVideo
from vidgen_dist.families.ltx.config import VaeConfig

CASES = cases("ltx")
TINY = {
    "latent_channels": 4,
    "block_out_channels": [4, 6],
    "down_block_types": ["LTXVideoDownBlock3D"] * 2,
    "layers_per_block": [1, 1, 1],
    "spatio_temporal_scaling": [True, False],
    "decoder_block_out_channels": [4, 6],
    "decoder_layers_per_block": [1, 1, 1],
    "decoder_spatio_temporal_scaling": [True, False],
    "patch_size": 2,
}
TOLD = {
    "decoder_block_out_channels": [8, 16],
    "decoder_spatio_temporal_scaling": [True, True],
    "decoder_inject_noise": [True, False, True],
    "upsample_residual": [True, True],
    "upsample_factor": [2, 2],
    "timestep_conditioning": True,
}
SHUFFLING = {
    "block_out_channels": [4, 8, 8],
    "down_block_types": ["LTXVideo095DownBlock3D"] * 2,
    "downsample_type": ["spatial", "temporal"],
    "spatio_temporal_scaling": [True, True],
    "spatial_compression_ratio": 4,
    "temporal_compression_ratio": 2,
}
NOISE_SEED = 77
"""The recorded generator of `record_vae` in tests/references/make_ltx.py."""


def published(name):
    return tiny.loaded(AutoencoderKLLTXVideo, case(name, "ltx"), "vae")


def randomised(mesh=None, **changes):
    return tiny.randomised(tiny.made(AutoencoderKLLTXVideo, {**TINY, **changes}, mesh))


def seeded(seed=NOISE_SEED):
    return np.random.Generator(np.random.PCG64(seed))


def decode(vae, latents, timestep=None, seed=NOISE_SEED):
    return nn.to_numpy(vae.decode(nn.from_numpy(latents), timestep, seeded(seed)))


# Against diffusers. ----------------------------------------------------------------------------


@pytest.mark.parametrize("piece", ["encode_clip", "encode_image"])
@pytest.mark.parametrize("name", CASES)
def test_encode_parity(name, piece):
    recorded = tiny.pieces_of(case(name, "ltx"), f"vae.{piece}")
    tiny.check_encoding(f"autoencoder {name}, {piece}", published(name), recorded, 1e-4)


@pytest.mark.parametrize("piece", ["decode_two", "decode_one"])
@pytest.mark.parametrize("name", CASES)
def test_decode_parity(name, piece):
    recorded = tiny.pieces_of(case(name, "ltx"), f"vae.{piece}")
    video = decode(published(name), recorded["input"], recorded.get("timestep"))
    check_close(f"autoencoder {name}, {piece}", video, recorded["output"], 1e-4)


def test_tiled_parity():
    pieces, vae = case("0.9.1", "ltx").pieces, published("0.9.1")
    latents, video = (pieces[f"vae.tiled_{half}.input"] for half in ("decode", "encode"))
    vae.tiles = StridedTiles(*pieces["vae.tile_sample"].tolist())
    vae.enable_tiling()
    check_close("tiled, decoding", decode(vae, latents, [0.1]), pieces["vae.tiled_decode.output"], 1e-4)
    check_close("tiled, encoding", tiny.encode(vae, video)[0], pieces["vae.tiled_encode.mean"], 1e-4)
    vae.use_tiling = False
    assert largest_difference(tiny.encode(vae, video)[0], pieces["vae.tiled_encode.mean"]) > 1e-3


def test_tiles_off_the_grid_are_refused():
    with pytest.raises(Refused, match="tiles of 18"):
        randomised().enable_tiling(tile_sample_min_height=18)


# The whole. -------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, TOLD, SHUFFLING], ids=["0.9.0", "0.9.1", "0.9.5"])
def test_every_parameter_is_used(changes):
    vae = randomised(**changes)
    video, latents = tiny.normal(1, 3, 1, 8, 8), tiny.normal(1, 4, 2, 2, 2)
    timestep = np.array([0.3], np.float32) if changes is TOLD else None
    runs = {
        "encoder.": lambda: np.concatenate(tiny.encode(vae, video)),
        "decoder.": lambda: decode(vae, latents, timestep),
    }
    # Those in neither belong to the pipeline.
    assert not tiny.without_effect(vae, runs)


@pytest.mark.parametrize("frames", [1, 2, 3, 5])
def test_frame_counts(frames):
    plain = randomised()
    assert decode(plain, tiny.normal(1, 4, frames, 2, 3)).shape == (1, 3, 2 * frames - 1, 8, 12)
    told = randomised(**TOLD)
    assert decode(told, tiny.normal(1, 4, frames, 2, 3), [0.1]).shape == (1, 3, 4 * frames - 3, 16, 24)
    assert tiny.encode(plain, tiny.normal(1, 3, 2 * frames - 1, 8, 12))[0].shape == (1, 4, frames, 2, 3)


@pytest.mark.parametrize(("causal", "reaches_back"), [(True, False), (False, True)])
def test_only_where_it_is_not_causal_do_frames_depend_on_later_ones(causal, reaches_back):
    vae = randomised(decoder_causal=causal)
    latents = tiny.normal(1, 4, 3, 2, 3)
    changed = latents.copy()
    changed[:, :, 2] += 1
    first = largest_difference(decode(vae, latents)[:, :, :1], decode(vae, changed)[:, :, :1])
    assert (first > 1e-4) == reaches_back


def test_noise_is_drawn_in_order_and_decides_the_frames():
    vae = randomised(**TOLD)
    latents = tiny.normal(1, 4, 2, 2, 3)
    one, same, other = (decode(vae, latents, [0.1], seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert largest_difference(one, other) > 1e-3
    # The middle block and the last one inject noise, twice each, at the sizes of their images.
    rng = seeded()
    vae.decode(nn.from_numpy(latents), [0.1], rng)
    drawn = seeded()
    drawn.standard_normal(2 * 2 * 3 + 2 * 8 * 12)
    assert rng.standard_normal() == drawn.standard_normal()


@pytest.mark.parametrize(("timestep", "needed"), [(None, "timestep"), ([0.1], "rng")])
def test_a_decoder_is_given_what_it_needs(timestep, needed):
    vae = randomised(**TOLD)
    with pytest.raises(ValueError, match=f"^{needed} is missing"):
        vae.decode(nn.from_numpy(tiny.normal(1, 4, 1, 2, 2)), timestep)


def test_a_variance_is_shared_by_the_channels_and_clamped():
    vae = randomised()
    bias = nn.named_parameters(vae)["encoder.conv_out.conv.bias"]
    bias.set_data(nn.from_numpy(np.array([0, 0, 0, 0, 100], np.float32)))
    mean, logvar = tiny.encode(vae, tiny.normal(1, 3, 1, 8, 8))
    assert mean.shape == logvar.shape
    assert (logvar == 20).all()


def test_channels_and_back():
    x = tiny.normal(2, 3, 4, 6, 8)
    for stride in ((2, 2, 2), (1, 2, 2), (2, 1, 1)):
        shuffled = ltx.to_channels(nn.from_numpy(x), stride)
        np.testing.assert_array_equal(nn.to_numpy(ltx.from_channels(shuffled, stride)), x)


# What is refused. -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"down_block_types": ["DownBlock"] * 2},
            r"down_block_types is \['DownBlock', .*each one of LTXVideoDownBlock3D, LTXVideo095",
        ),
        ({"down_block_types": []}, r"down_block_types is \[\]; allowed is a list, .* \(one or more\)"),
        ({"block_out_channels": 4}, "block_out_channels is 4; allowed is a list"),
        ({"layers_per_block": [1, 1]}, "layers_per_block is .*; allowed is 3 entries or more"),
        ({"decoder_inject_noise": [True] * 2}, "decoder_inject_noise is .*; allowed is 3 entries or more"),
        (
            {**SHUFFLING, "downsample_type": ["twice"] * 2},
            r"downsample_type is \['twice', .*each one of conv, spatial,",
        ),
        ({**SHUFFLING, "downsample_type": ["conv"] * 2}, "block_out_channels is .*shuffles no pixels"),
        ({**SHUFFLING, "block_out_channels": [4, 7, 8]}, "block_out_channels is .*, shuffled"),
        ({"scaling_factor": 0}, "scaling_factor is 0; allowed is a number above 0"),
        ({"resnet_norm_eps": -1e-6}, "resnet_norm_eps is -1e-06; allowed is a number from 0"),
        ({"timestep_conditioning": True}, "decoder_block_out_channels is .*product with upsample_factor"),
        ({"upsample_factor": [1, 2]}, "upsample_factor is .*1 for a block that does not scale"),
        ({**TOLD, "decoder_block_out_channels": [6, 12]}, "upsample_factor is .*and 8 with"),
    ],
)
def test_a_config_that_cannot_be_is_refused_by_its_key(changes, message):
    with pytest.raises(Refused, match=f"^config of AutoencoderKLLTXVideo: {message}"):
        VaeConfig.read({**TINY, **changes})
