"""I2VGen-XL's UNet: parity with diffusers, the image's tokens, refusals."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from tests.families import tiny
from tests.references import case, cases, check_close
from vidgen_dist import nn
from vidgen_dist.errors import Refused
from vidgen_dist.families.i2vgen_xl.config import UNetConfig
from vidgen_dist.families.i2vgen_xl.unet import I2VGenXLUNet, average_pool
from vidgen_dist.parallel.sharding import sharded_paths

FAMILY = "i2vgen_xl"


@pytest.fixture(autouse=True, scope="module")
def cpu() -> None:
    nn.set_device("cpu")


@functools.cache
def loaded(name: str) -> I2VGenXLUNet:
    return tiny.loaded(I2VGenXLUNet, case(name, FAMILY), "unet")


def run(model: I2VGenXLUNet, pieces: dict[str, np.ndarray]) -> np.ndarray:
    """The output for inputs named as in the references."""
    batch = len(pieces["sample"])
    output = model(
        nn.from_numpy(pieces["sample"]),
        np.full(batch, pieces["timestep"]),
        pieces["fps"],
        nn.from_numpy(pieces["encoder_hidden_states"]),
        nn.from_numpy(pieces["image_latents"]),
        nn.from_numpy(pieces["image_embeddings"][:, 0]),
    )
    return nn.to_numpy(output)


@pytest.mark.parametrize("step", ["first", "last"])
@pytest.mark.parametrize("name", cases(FAMILY))
def test_parity(name: str, step: str) -> None:
    pieces = tiny.pieces_of(case(name, FAMILY), f"unet.{step}")
    check_close(f"unet {name}, {step} step", run(loaded(name), pieces), pieces["output"], 1e-4)


def cut(pieces: dict[str, np.ndarray], frames: int) -> dict[str, np.ndarray]:
    """The first frames."""
    clips = {key: pieces[key][:, :, :frames] for key in ("sample", "image_latents")}
    return {**pieces, **clips}


def test_blocks_without_attention_are_shared_out_too() -> None:
    plain = {"down_block_types": ["DownBlock3D"] * 2, "up_block_types": ["UpBlock3D"] * 2}
    sizes = {"block_out_channels": [8, 8], "norm_num_groups": 4, "attention_head_dim": 4}
    model = tiny.made(I2VGenXLUNet, {**plain, **sizes, "layers_per_block": 1, "cross_attention_dim": 6})
    shared = {path: len(functools.reduce(getattr, path.split("."), model)) for path in sharded_paths(model)}
    assert shared["up_blocks.1.temp_convs"] == 2
    assert shared["up_blocks.1.attentions"] == 0
    assert shared["mid_block.attentions"] == 1


def test_samples_of_a_batch_do_not_see_each_other() -> None:
    model, both = loaded("i2v"), cut(tiny.pieces_of(case("i2v", FAMILY), "unet.last"), 2)
    timestep = both.pop("timestep")
    alone = [run(model, {**tiny.part(both, slice(i, i + 1)), "timestep": timestep}) for i in range(2)]
    np.testing.assert_allclose(run(model, {**both, "timestep": timestep}), np.concatenate(alone), atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(5, 8), (32, 1), (45, 80)])
def test_windows_of_the_average(height: int, width: int) -> None:
    x = tiny.normal(2, 3, height, width)
    pooled = nn.to_numpy(average_pool(nn.from_numpy(x), 32))
    assert pooled.shape == (2, 3, 32, 32)
    for i, j in ((0, 0), (7, 13), (31, 31)):
        rows = slice(i * height // 32, -(-(i + 1) * height // 32))
        columns = slice(j * width // 32, -(-(j + 1) * width // 32))
        np.testing.assert_allclose(pooled[..., i, j], x[..., rows, columns].mean((-2, -1)), atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers_per_block": 0}, "layers_per_block is 0; allowed is a whole number from 1"),
        ({"in_channels": 8}, "in_channels is 8; allowed is 4"),
        (
            {"down_block_types": ["DownBlock2D"]},
            r"down_block_types is \['DownBlock2D'\]; allowed is a list, each one of DownBlock3D, Cross",
        ),
        (
            {"up_block_types": ["UpBlock3D"]},
            "up_block_types is .*; allowed is 4 entries, one for each",
        ),
        ({"norm_num_groups": 48}, r"block_out_channels is .*; allowed is multiples of 48, the groups"),
        # With the reference a list gives an error that names no key.
        ({"attention_head_dim": [64] * 4}, "attention_head_dim is .*; allowed is a whole number from 1"),
        ({"attention_head_dim": 640}, "attention_head_dim is 640; allowed is a whole number up to 320"),
    ],
)
def test_a_config_that_cannot_be_is_refused_by_its_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match=f"^config of I2VGenXLUNet: {message}"):
        UNetConfig.read(changes)


def test_an_empty_config_is_the_published_one() -> None:
    config = UNetConfig.read({"sample_size": 32, "num_attention_heads": None})
    assert (config.time_dim, config.heads(1280), len(config.block_out_channels)) == (1280, 20, 4)
