"""HunyuanVideo's autoencoder: parity with diffusers, tiles, refusals."""

import numpy as np
import pytest

from tests.families import tiny
from tests.references import case, cases
from vidgen_dist import nn
from vidgen_dist.errors import Refused
from vidgen_dist.families.common.tiles import Tiles, cut, in_frame_tiles
from vidgen_dist.families.hunyuan_video.autoencoder import AutoencoderKLHunyuanVideo, FrameTiles
from vidgen_dist.families.hunyuan_video.config import VaeConfig

FAMILY = "hunyuan_video"
TOLERANCE = 2e-5
CASES = [case(name, FAMILY) for name in cases(FAMILY)]
TINY = {"block_out_channels": [4, 4, 4, 4], "norm_num_groups": 2, "layers_per_block": 1, "latent_channels": 2}


def loaded(name, piece):
    """The model, with tiles for a tiled case; and the case's array."""
    model = tiny.loaded(AutoencoderKLHunyuanVideo, case(name, FAMILY), "vae")
    if piece.startswith("tiled"):
        model.tiles = FrameTiles(32, 24, 24, 16, 8, 4)
        model.enable_tiling()
    return model, tiny.pieces_of(case(name, FAMILY), f"vae.{piece}")


@pytest.mark.parametrize(("name", "piece"), tiny.recordings(CASES, "decode"))
def test_decoding(name, piece):
    tiny.check_decoding(f"{name} {piece}", *loaded(name, piece), TOLERANCE)


@pytest.mark.parametrize(("name", "piece"), tiny.recordings(CASES, "encode"))
def test_encoding(name, piece):
    tiny.check_encoding(f"{name} {piece}", *loaded(name, piece), TOLERANCE)


@pytest.mark.parametrize(
    ("frames", "shortest", "runs"),
    [
        (4, 1, [(0, 4)]),
        (5, 1, [(0, 5), (3, 5)]),
        (6, 1, [(0, 5), (3, 6)]),
        # The last tile would have only the frame of the one before it.
        (7, 1, [(0, 5), (3, 7)]),
        (8, 1, [(0, 5), (3, 8), (6, 8)]),
    ],
)
def test_tiles_of_frames(frames, shortest, runs):
    seen = []

    def run(part):
        values = nn.to_numpy(part)[0, 0, :, 0, 0]
        seen.append((int(values[0]), int(values[-1]) + 1))
        return part

    x = np.arange(frames, dtype=np.float32).reshape(1, 1, frames, 1, 1)
    # With an identity the output is the input: blending equal tiles changes nothing.
    out = in_frame_tiles(nn.from_numpy(x), Tiles(size=4, step=3, blend=1, keep=3), run, shortest)
    assert seen == runs
    np.testing.assert_allclose(nn.to_numpy(out), x)


def test_blocks_that_change_the_size():
    published = VaeConfig()
    assert [published.strides(level) for level in range(4)] == [(1, 2, 2), (2, 2, 2), (2, 2, 2), None]
    coarser = VaeConfig(spatial_compression_ratio=16)
    assert coarser.strides(3) == (1, 2, 2)


@pytest.mark.parametrize("decoding", [True, False])
def test_tiles_that_do_not_meet_are_refused(decoding):
    for samples, stride in ((30, 16), (32, 12), (32, 40), (32, 0)):
        with pytest.raises(Refused, match=f"tiles of {samples}, one every {stride}"):
            cut(samples, stride, 8, decoding=decoding)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"down_block_types": ["DownBlock3D"] * 4},
            "down_block_types is .*; allowed is HunyuanVideoDownBlock3D, 4",
        ),
        (
            {"up_block_types": ["HunyuanVideoUpBlock3D"]},
            "up_block_types is .*; allowed is HunyuanVideoUpBlock3D, 4",
        ),
        ({"up_block_types": None}, "up_block_types is None; allowed is a list, each a text"),
        ({"layers_per_block": "2"}, "layers_per_block is '2'; allowed is a whole number"),
        ({"latent_channels": 0}, "latent_channels is 0; allowed is a whole number from 1"),
        (
            {"block_out_channels": [4, 4.0, 4]},
            r"block_out_channels is \[4, 4\.0, 4\]; allowed is a list, each a whole",
        ),
        ({"block_out_channels": 4}, "block_out_channels is 4; allowed is a list, each"),
        ({"scaling_factor": 0.0}, r"scaling_factor is 0\.0; allowed is a number above 0"),
        ({"act_fn": "snake"}, "act_fn is 'snake'; allowed is one of silu,"),
        ({"norm_num_groups": 3}, "block_out_channels is .*; allowed is multiples of norm_num_groups, 3"),
        ({"temporal_compression_ratio": 8}, "temporal_compression_ratio is 8; allowed is 4"),
        (
            {"spatial_compression_ratio": 12},
            "spatial_compression_ratio is 12; .* a power of 2, up to 16",
        ),
    ],
)
def test_a_config_that_cannot_be_is_refused_by_its_key(changes, message):
    with pytest.raises(Refused, match=f"^config of AutoencoderKLHunyuanVideo: {message}"):
        VaeConfig.read({**TINY, **changes})
