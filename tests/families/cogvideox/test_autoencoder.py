"""CogVideoX's autoencoder: parity with diffusers, its parts against NumPy, cache, tiles, refusals."""

from dataclasses import asdict

import numpy as np
import pytest

from tests.families import tiny
from tests.references import case, cases, check_close, largest_difference
from vidgen_dist import nn
from vidgen_dist.errors import Refused
from vidgen_dist.families.cogvideox.autoencoder import (
    AutoencoderKLCogVideoX,
    CausalConv3d,
    Downsample3D,
    FrameCache,
    SpatialNorm3D,
    Upsample3D,
)
from vidgen_dist.families.cogvideox.config import VaeConfig
from vidgen_dist.families.common.tiles import OverlappingTiles
from vidgen_dist.parallel.spatial_split import SpatialSplit

TOLERANCE = 2e-5

TINY = {
    "block_out_channels": [4, 8, 12],
    "down_block_types": ["CogVideoXDownBlock3D"] * 3,
    "up_block_types": ["CogVideoXUpBlock3D"] * 3,
    "latent_channels": 4,
    "layers_per_block": 1,
    "norm_num_groups": 2,
}

ENCODED = [(name, "encode") for name in cases() if "vae.encode.input" in case(name).pieces]
DECODED = [(name, "decode") for name in cases()]
MORE_ENCODED = [("2b", f"encode_{kind}") for kind in ("one", "batches", "even")]
MORE_DECODED = [("2b", f"decode_{kind}") for kind in ("one", "odd", "even")]


def published(name):
    return tiny.loaded(AutoencoderKLCogVideoX, case(name), "vae")


def randomised(**changes):
    return tiny.randomised(AutoencoderKLCogVideoX(VaeConfig.read({**TINY, **changes})))


def with_weights(module):
    """The module with random weights, and the weights in float64."""
    parameters = nn.named_parameters(tiny.randomised(module))
    return module, {key: nn.to_numpy(values).astype(np.float64) for key, values in parameters.items()}


# Against diffusers. ----------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "piece"), ENCODED + MORE_ENCODED)
def test_encode_parity(name, piece):
    recorded = tiny.pieces_of(case(name), f"vae.{piece}")
    tiny.check_encoding(f"autoencoder {name}, {piece}", published(name), recorded, TOLERANCE)


@pytest.mark.parametrize(("name", "piece"), DECODED + MORE_DECODED)
def test_decode_parity(name, piece):
    recorded = tiny.pieces_of(case(name), f"vae.{piece}")
    tiny.check_decoding(f"autoencoder {name}, {piece}", published(name), recorded, TOLERANCE)


def test_tiled_parity():
    pieces = case("2b").pieces
    vae = published("2b")
    height, width = (int(size) for size in pieces["vae.tile_sample_min"])
    vae.enable_tiling(tile_sample_min_height=height, tile_sample_min_width=width)
    mean, logvar = tiny.encode(vae, pieces["vae.tiled_encode.input"])
    video = tiny.decode(vae, pieces["vae.tiled_decode.input"])
    for ours, key in ((mean, "encode.mean"), (logvar, "encode.logvar"), (video, "decode.output")):
        check_close(f"autoencoder 2b, tiled, {key}", ours, pieces[f"vae.tiled_{key}"], TOLERANCE)
    vae.use_tiling = False
    whole = tiny.decode(vae, pieces["vae.tiled_decode.input"])
    assert largest_difference(whole, pieces["vae.tiled_decode.output"]) > TOLERANCE


# Parts, against plain NumPy in float64. ---------------------------------------------------------


def convolved(x, weight, bias, stride=1):
    """A convolution of x (B, I, T, H, W), already padded, with weight (O, I, kT, kH, kW)."""
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], axis=(2, 3, 4))
    windows = windows[:, :, :, ::stride, ::stride]
    return np.einsum("bithwklm,oiklm->bothw", windows, weight) + bias[:, None, None, None]


@pytest.mark.parametrize("pad_mode", ["first", "constant", "replicate"])
@pytest.mark.parametrize("frames", [1, 4])
def test_causal_convolution(pad_mode, frames):
    conv, weights = with_weights(CausalConv3d(3, 5, pad_mode=pad_mode))
    x = tiny.normal(2, 3, frames, 5, 4)
    padded = np.concatenate([x[:, :, :1], x[:, :, :1], x], axis=2)
    edges = [(0, 0)] * 3 + [(1, 1)] * 2
    padded = np.pad(padded, edges, mode="edge" if pad_mode == "replicate" else "constant")
    ours = nn.to_numpy(conv(nn.from_numpy(x), FrameCache()))
    assert largest_difference(ours, convolved(padded, weights["conv.weight"], weights["conv.bias"])) < 1e-5


@pytest.mark.parametrize("batches", [[4, 3], [3, 1, 1, 2]])
def test_causal_convolution_of_batches_is_that_of_the_whole(batches):
    conv, _ = with_weights(CausalConv3d(3, 5))
    x = tiny.normal(1, 3, 7, 5, 4)
    whole = nn.to_numpy(conv(nn.from_numpy(x), FrameCache()))
    cache = FrameCache()
    parts = [
        nn.to_numpy(conv(nn.from_numpy(part), cache)) for part in np.split(x, np.cumsum(batches)[:-1], axis=2)
    ]
    assert largest_difference(np.concatenate(parts, axis=2), whole) < 1e-6


@pytest.mark.parametrize(
    ("frames", "stretched"),
    [
        (1, [0]),
        (2, [0, 1]),
        (4, [0, 0, 1, 1]),
        (3, [0, 1, 2]),
        (5, [0, 1, 1, 2, 2]),
        (9, [0, *[1] * 4, *[2] * 4]),
    ],
)
def test_spatial_norm(frames, stretched):
    norm, weights = with_weights(SpatialNorm3D(6, 3, 2))
    x, latents = tiny.normal(2, 6, frames, 4, 12), tiny.normal(2, 3, max(stretched) + 1, 2, 3, seed=2)
    zq = latents.astype(np.float64)[:, :, stretched].repeat(2, axis=3).repeat(4, axis=4)
    groups = x.astype(np.float64).reshape(2, 2, -1)
    groups = (groups - groups.mean(-1, keepdims=True)) / np.sqrt(groups.var(-1, keepdims=True) + 1e-6)
    weight, bias = (weights[f"norm_layer.{key}"][:, None, None, None] for key in ("weight", "bias"))
    scale, shift = (
        convolved(zq, weights[f"{conv}.conv.weight"], weights[f"{conv}.conv.bias"])
        for conv in ("conv_y", "conv_b")
    )
    expected = (groups.reshape(x.shape) * weight + bias) * scale + shift
    assert (
        largest_difference(
            nn.to_numpy(norm(nn.from_numpy(x), SpatialSplit(), nn.from_numpy(latents))), expected
        )
        < 1e-5
    )


@pytest.mark.parametrize(
    ("compress_time", "frames", "doubled"),
    [
        (False, 3, [0, 1, 2]),
        (True, 1, [0]),
        (True, 2, [0, 0, 1, 1]),
        (True, 3, [0, 1, 1, 2, 2]),
        (True, 4, [0, 0, 1, 1, 2, 2, 3, 3]),
    ],
)
def test_upsampling(compress_time, frames, doubled):
    upsample, weights = with_weights(Upsample3D(4, compress_time))
    x = tiny.normal(2, 4, frames, 3, 5)
    larger = x.astype(np.float64)[:, :, doubled].repeat(2, axis=3).repeat(2, axis=4)
    padded = np.pad(larger, [(0, 0)] * 3 + [(1, 1)] * 2)
    expected = convolved(padded, weights["conv.weight"][:, :, None], weights["conv.bias"])
    assert largest_difference(nn.to_numpy(upsample(nn.from_numpy(x), SpatialSplit())), expected) < 1e-5


@pytest.mark.parametrize(
    ("compress_time", "means"),
    [
        (False, [[0], [1], [2]]),
        (True, [[0]]),
        (True, [[0, 1]]),
        (True, [[0], [1, 2]]),
        (True, [[0, 1], [2, 3]]),
        (True, [[0], [1, 2], [3, 4]]),
    ],
)
@pytest.mark.parametrize("size", [(4, 6), (5, 7)])
def test_downsampling(compress_time, means, size):
    downsample, weights = with_weights(Downsample3D(4, compress_time))
    x = tiny.normal(2, 4, means[-1][-1] + 1, *size)
    halved = np.stack([x.astype(np.float64)[:, :, frames].mean(2) for frames in means], axis=2)
    padded = np.pad(halved, [(0, 0)] * 3 + [(0, 1)] * 2)
    expected = convolved(padded, weights["conv.weight"][:, :, None], weights["conv.bias"], stride=2)
    assert largest_difference(nn.to_numpy(downsample(nn.from_numpy(x), SpatialSplit())), expected) < 1e-5


# The whole. -------------------------------------------------------------------------------------


def batches_of(frames, at_once):
    rest = frames // at_once - 1
    return [frames] if rest < 1 else [frames - rest * at_once, *[at_once] * rest]


@pytest.mark.parametrize("levels", [0, 1, 2])
def test_frame_counts(levels):
    vae = randomised(temporal_compression_ratio=2**levels)
    for frames in (1, 2, 3, 6, 8, 9, 15, 16, 17, 19, 33):
        batches = batches_of(frames, 8)
        for _ in range(levels):
            batches = [(n + 1) // 2 for n in batches]
        mean, logvar = tiny.encode(vae, tiny.normal(1, 3, frames, 8, 12))
        assert mean.shape == logvar.shape == (1, 4, sum(batches), 2, 3)

    for latent_frames in (1, 2, 3, 4, 6, 7):
        batches = batches_of(latent_frames, 2)
        for _ in range(levels):
            batches = [2 * n - n % 2 if n > 1 else 1 for n in batches]
        shape = (1, 3, sum(batches), 8, 12)
        assert tiny.decode(vae, tiny.normal(1, 4, latent_frames, 2, 3)).shape == shape


def test_frames_depend_on_no_later_batch():
    vae = randomised()
    latents = tiny.normal(1, 4, 7, 3, 4)
    changed = latents.copy()
    changed[:, :, 5:] += 1.0
    video, other = tiny.decode(vae, latents), tiny.decode(vae, changed)
    # Batches of 3, 2 and 2 latents: 9, 8 and 8 frames.
    np.testing.assert_array_equal(video[:, :, :17], other[:, :, :17])
    assert largest_difference(video[:, :, 17:], other[:, :, 17:]) > 0.01
    # And the second batch does depend on the first.
    changed = latents.copy()
    changed[:, :, :3] += 1.0
    assert largest_difference(video[:, :, 9:17], tiny.decode(vae, changed)[:, :, 9:17]) > 0.01


def test_one_video_leaves_nothing_for_the_next():
    vae = randomised()
    latents = tiny.normal(1, 4, 5, 3, 4)
    first = tiny.decode(vae, latents)
    np.testing.assert_array_equal(tiny.decode(vae, latents), first)


def test_slices_are_the_videos():
    vae = randomised()
    video, latents = tiny.normal(3, 3, 9, 8, 12), tiny.normal(3, 4, 3, 2, 3)
    whole = (*tiny.encode(vae, video), tiny.decode(vae, latents))
    vae.use_slicing = True
    for ours, theirs in zip((*tiny.encode(vae, video), tiny.decode(vae, latents)), whole, strict=True):
        assert largest_difference(ours, theirs) < 1e-5


def test_logvar_is_clamped():
    vae = randomised()
    bias = nn.named_parameters(vae)["encoder.conv_out.conv.bias"]
    bias.set_data(nn.from_numpy(np.repeat(np.array([100.0, 100.0, -100.0], np.float32), [4, 2, 2])))
    mean, logvar = tiny.encode(vae, tiny.normal(1, 3, 1, 8, 8))
    assert (mean > 50).all()
    assert (logvar[:, :2] == 20).all()
    assert (logvar[:, 2:] == -30).all()


def test_quantizing_convolutions():
    """Identity maps have no effect; when doubled, moments double and latents count twice."""
    changes = {"latent_channels": 3, "use_quant_conv": True, "use_post_quant_conv": True}
    plain, vae = randomised(latent_channels=3), randomised(**changes)
    for key, parameter in nn.named_parameters(vae).items():
        if key.startswith(("encoder.", "decoder.")):
            parameter.set_data(nn.from_numpy(nn.to_numpy(nn.named_parameters(plain)[key])))
    for conv in (vae.quant_conv, vae.post_quant_conv):
        channels = conv.bias.shape[0]
        conv.weight.set_data(nn.from_numpy(2 * np.eye(channels, dtype=np.float32)[:, :, None, None, None]))
        conv.bias.set_data(nn.from_numpy(np.zeros(channels, np.float32)))
    video, latents = tiny.normal(1, 3, 9, 8, 12), tiny.normal(1, 3, 5, 2, 3)
    for ours, theirs in zip(tiny.encode(vae, video), tiny.encode(plain, video), strict=True):
        assert largest_difference(ours, 2 * theirs) < 1e-5
    assert largest_difference(tiny.decode(vae, latents), tiny.decode(plain, 2 * latents)) < 1e-5


def test_every_parameter_is_used():
    changes = {
        "block_out_channels": [4, 6],
        "down_block_types": ["CogVideoXDownBlock3D"] * 2,
        "up_block_types": ["CogVideoXUpBlock3D"] * 2,
        "latent_channels": 3,
        "use_quant_conv": True,
        "use_post_quant_conv": True,
    }
    vae = randomised(**changes)
    video, latents = tiny.normal(1, 3, 1, 6, 8), tiny.normal(1, 3, 1, 3, 4)

    def moments():
        return np.concatenate(tiny.encode(vae, video), axis=1)

    def frames():
        return tiny.decode(vae, latents)

    runs = {"encoder.": moments, "quant_conv.": moments, "decoder.": frames, "post_quant_conv.": frames}
    assert not tiny.without_effect(vae, runs)


@pytest.mark.parametrize("act_fn", ["gelu", "relu", "mish"])
def test_activations_differ(act_fn):
    latents = tiny.normal(1, 4, 1, 2, 3)
    assert (
        largest_difference(
            tiny.decode(randomised(act_fn=act_fn), latents), tiny.decode(randomised(), latents)
        )
        > 1e-3
    )


def test_no_module_takes_memory_for_its_weights():
    parameters = nn.named_parameters(AutoencoderKLCogVideoX(VaeConfig()))
    assert len(parameters) == 436
    assert parameters["decoder.up_blocks.0.resnets.3.norm2.conv_y.conv.weight"].shape == (512, 16, 1, 1, 1)


# Tiles. -----------------------------------------------------------------------------------------


def test_frames_no_larger_than_a_tile_are_not_cut():
    vae = randomised()
    video, latents = tiny.normal(1, 3, 1, 16, 24), tiny.normal(1, 4, 1, 4, 6)
    whole = (*tiny.encode(vae, video), tiny.decode(vae, latents))
    vae.tiles = OverlappingTiles(16, 24, 0.25, 0.5)
    vae.enable_tiling()
    for ours, theirs in zip((*tiny.encode(vae, video), tiny.decode(vae, latents)), whole, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_tiles_of_a_checkpoint_are_half_its_samples():
    vae = randomised(sample_height=96, sample_width=160)
    vae.enable_tiling()
    latents = tiny.normal(1, 4, 1, 12, 24)
    tiled = tiny.decode(vae, latents)
    vae.use_tiling = False
    assert tiled.shape == (1, 3, 1, 48, 96)
    # Up to the second tile, which starts at four fifths of the first.
    np.testing.assert_array_equal(
        tiled[:, :, :, :40, :64], tiny.decode(vae, latents[..., :20])[:, :, :, :40, :64]
    )


def test_a_faded_edge_runs_from_one_tile_to_the_next():
    """Two tiles of 4 latents, 2 of them shared: by hand."""
    vae = randomised()
    latents = tiny.normal(1, 4, 1, 4, 6)
    left, right = tiny.decode(vae, latents[..., :4]), tiny.decode(vae, latents[..., 2:])
    ramp = np.arange(8, dtype=np.float32) / 8
    seam = left[..., 8:] * (1 - ramp) + right[..., :8] * ramp
    # A third tile, of the last two latents, would start where the kept half of the second one ends.
    last = tiny.decode(vae, latents[..., 4:])
    end = right[..., 8:] * (1 - ramp) + last * ramp
    vae.tiles = OverlappingTiles(16, 16, 0.0, 0.5)
    vae.enable_tiling()
    ours = tiny.decode(vae, latents)
    assert largest_difference(ours, np.concatenate([left[..., :8], seam, end], axis=-1)) < 1e-6


@pytest.mark.parametrize(
    "tiles",
    [(16, 18, 0.25, 0.5), (16, 16, 0.3, 0.5), (16, 16, 0.5, 1.0), (16, 16, -0.25, 0.5), (0, 16, 0.5, 0.5)],
)
def test_tiles_off_the_grid_are_refused(tiles):
    vae = randomised()
    before = vae.tiles
    with pytest.raises(Refused, match="do not meet on the grid of 4 pixels per latent"):
        vae.enable_tiling(**asdict(OverlappingTiles(*tiles)))
    assert (vae.tiles, vae.use_tiling) == (before, False)


def test_a_size_that_tiles_do_not_have():
    with pytest.raises(TypeError, match="tile_sample_stride_height"):
        randomised().enable_tiling(tile_sample_stride_height=16)


# Configurations. --------------------------------------------------------------------------------


def test_defaults_are_those_of_the_reference():
    config = VaeConfig.read({"_class_name": "AutoencoderKLCogVideoX"})
    assert config.block_out_channels == (128, 256, 256, 512)
    assert config.spatial_compression_ratio == 8
    assert config.temporal_levels == 2
    assert config.scaling_factor == 1.15258426


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"down_block_types": ["DownBlock3D"] * 3}, "down_block_types is .*CogVideoXDownBlock3D, 3 times"),
        ({"up_block_types": ["CogVideoXUpBlock3D"] * 2}, "up_block_types is .*, 3 times: as many as block_"),
        ({"up_block_types": "CogVideoXUpBlock3D"}, "up_block_types is 'Cog.*a list, each a text"),
        ({"act_fn": "tanh"}, "act_fn is 'tanh'; allowed is one of silu, swish, mish, gelu, relu"),
        ({"act_fn": None}, "act_fn is None; allowed is one of silu, swish, mish, gelu, relu"),
        ({"norm_num_groups": 8}, r"block_out_channels is \(4, 8, 12\); .*multiples of norm_num_groups, 8"),
        ({"norm_num_groups": 0}, "norm_num_groups is 0; allowed is a whole number from 1"),
        ({"block_out_channels": [4, 8, "12"]}, r"block_out_channels is \[4, 8, '12'\]; .*a whole number"),
        ({"block_out_channels": [4, 8, 0]}, r"block_out_channels is \[4, 8, 0\]; .*from 1"),
        ({"layers_per_block": "1"}, "layers_per_block is '1'; allowed is a whole number"),
        ({"sample_height": None}, "sample_height is None; allowed is a whole number"),
        ({"scaling_factor": None}, "scaling_factor is None; allowed is a number"),
        ({"scaling_factor": 0}, "scaling_factor is 0; allowed is a number above 0"),
        ({"norm_eps": -1}, "norm_eps is -1; allowed is a number from 0"),
        ({"use_quant_conv": True}, r"use_quant_conv is True; .*false, where latent_channels \(4\)"),
        ({"temporal_compression_ratio": 3}, "temporal_compression_ratio is 3.0; allowed is a power of 2"),
    ],
)
def test_configurations_that_cannot_be_are_refused(changes, message):
    with pytest.raises(Refused, match=message):
        VaeConfig.read({**TINY, **changes})
