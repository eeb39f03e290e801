"""Mochi's autoencoder: parity with diffusers, tiles, refusals."""

import json

import numpy as np
import pytest

from tests.references import case, cases, largest_difference
from vidgen_dist import nn
from vidgen_dist.errors import Refused
from vidgen_dist.models.autoencoders import mochi
from vidgen_dist.models.autoencoders.mochi import AutoencoderConfig, AutoencoderKLMochi
from vidgen_dist.models.autoencoders.tiles import StridedTiles
from vidgen_dist.weights.load import load_weights

FAMILY = "mochi"
TOLERANCE = 1e-4
PIECES = [
    (name, key.split(".")[1])
    for name in cases(FAMILY)
    for key in case(name, FAMILY).pieces
    if key.startswith("vae.") and key.endswith(".input")
]
DECODED = [(name, piece) for name, piece in PIECES if "decode" in piece]
ENCODED = [(name, piece) for name, piece in PIECES if "encode" in piece]
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


def loaded(name, piece="decode"):
    folder = case(name, FAMILY).checkpoint / "vae"
    model = AutoencoderKLMochi(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    load_weights(model, folder, variant=case(name, FAMILY).variant)
    if piece.startswith("tiled"):
        model.tiles = StridedTiles(32, 24, 24, 16)
        model.enable_tiling()
    return model


def randomised(mesh=None, **changes):
    """A model with random weights."""
    model = AutoencoderKLMochi({**TINY, **changes}, mesh)
    rng = np.random.default_rng(0)
    for parameter in nn.named_parameters(model).values():
        values = rng.standard_normal(parameter.shape) / np.sqrt(max(1, np.prod(parameter.shape[1:])))
        parameter.set_data(nn.from_numpy(values.astype(np.float32)))
    return model


def normal(*shape):
    return nn.from_numpy(np.random.default_rng(1).standard_normal(shape).astype(np.float32))


def piece_of(name, piece, part):
    return case(name, FAMILY).pieces[f"vae.{piece}.{part}"]


@pytest.fixture(autouse=True, scope="module")
def cpu():
    nn.set_device("cpu")


@pytest.mark.parametrize(("name", "piece"), DECODED)
def test_decoding(name, piece):
    frames = nn.to_numpy(loaded(name, piece).decode(nn.from_numpy(piece_of(name, piece, "input"))))
    difference = largest_difference(frames, piece_of(name, piece, "output"))
    print(f"{name} {piece}: largest difference {difference:.2e}")
    assert difference < TOLERANCE


@pytest.mark.parametrize(("name", "piece"), ENCODED)
def test_encoding(name, piece):
    moments = loaded(name, piece).encode(nn.from_numpy(piece_of(name, piece, "input")))
    for moment, part in zip(moments, ("mean", "logvar"), strict=True):
        difference = largest_difference(nn.to_numpy(moment), piece_of(name, piece, part))
        print(f"{name} {piece} {part}: largest difference {difference:.2e}")
        assert difference < TOLERANCE


def test_every_parameter_is_used():
    # Two channels a group: of one, a norm takes away the bias of the convolution before it.
    wide = [64, 64]
    model = randomised(
        encoder_block_out_channels=wide, decoder_block_out_channels=wide, layers_per_block=[1, 0, 1]
    )
    video, latents = normal(1, 3, 4, 4, 4), normal(1, 2, 2, 2, 2)

    def run(half):
        return nn.to_numpy(model.encode(video)[0] if half == "encoder" else model.decode(latents))

    before = {half: run(half) for half in ("encoder", "decoder")}
    for key, parameter in nn.named_parameters(model).items():
        half = key.split(".")[0]
        values = nn.to_numpy(parameter).copy()
        values.reshape(-1)[0] += 1.0
        parameter.set_data(nn.from_numpy(values))
        after = run(half)
        assert largest_difference(after, before[half]) > 1e-5, key
        before[half] = after


@pytest.mark.parametrize("at_once", [1, 3])
def test_batches_of_frames_make_what_all_make_at_once(at_once, monkeypatch):
    model, latents = randomised(), normal(1, 2, 5, 2, 3)
    monkeypatch.setattr(mochi, "LATENT_FRAMES_AT_ONCE", 5)
    whole = nn.to_numpy(model.decode(latents))
    monkeypatch.setattr(mochi, "LATENT_FRAMES_AT_ONCE", at_once)
    np.testing.assert_allclose(nn.to_numpy(model.decode(latents)), whole, atol=1e-5)


@pytest.mark.parametrize("latent_frames", [1, 2, 3])
def test_frame_counts(latent_frames):
    model = randomised()
    frames = 3 * (latent_frames - 1) + 1
    assert model.decode(normal(2, 2, latent_frames, 2, 3)).shape == (2, 3, frames, 4, 6)
    for more in range(3):
        mean, _ = model.encode(normal(1, 3, frames + more, 4, 6))
        assert mean.shape == (1, 2, (frames + more - 1) // 3 + 1, 2, 3)


def test_frames_do_not_depend_on_later_ones():
    model, video = randomised(), nn.to_numpy(normal(1, 3, 7, 4, 4))
    changed = video.copy()
    changed[:, :, 4:] += 0.5
    mean, other = (nn.to_numpy(model.encode(nn.from_numpy(x))[0]) for x in (video, changed))
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
        ({"latents_std": [1.0]}, "latents_std is .* as many numbers as latent_channels, 2"),
    ],
)
def test_a_config_that_cannot_be_is_refused_by_its_key(changes, message):
    with pytest.raises(Refused, match=f"^config of AutoencoderKLMochi: {message}"):
        AutoencoderKLMochi({**TINY, **changes})


def test_an_empty_config_is_the_published_one():
    config = AutoencoderConfig.from_mapping({})
    assert (config.spatial_compression_ratio, config.temporal_compression_ratio) == (8, 6)


def test_tiles_that_do_not_meet_are_refused():
    with pytest.raises(Refused, match="tiles of 33, one every 192"):
        randomised().enable_tiling(tile_sample_min_height=33)
