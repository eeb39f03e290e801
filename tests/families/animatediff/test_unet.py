"""AnimateDiff's UNet: parity with diffusers, what each parameter does, odd sizes, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.families import tiny
from tests.references import Case, case, cases, check_close
from vidgen_dist import nn
from vidgen_dist.errors import Refused
from vidgen_dist.families.animatediff.config import (
    MotionAdapterConfig,
    UNet2DConditionConfig,
    UNetMotionConfig,
)
from vidgen_dist.families.animatediff.unet import UNetMotionModel

FAMILY = "animatediff"
TINY: dict[str, Any] = {
    "block_out_channels": (4, 8),
    "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"),
    "up_block_types": ("UpBlockMotion", "CrossAttnUpBlockMotion"),
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "cross_attention_dim": 6,
    "num_attention_heads": 2,
    "motion_num_attention_heads": 2,
    "motion_max_seq_length": 8,
}


def run(model: UNetMotionModel, pieces: dict[str, np.ndarray]) -> np.ndarray:
    """The output for inputs named as in the references."""
    latents = pieces["sample"]
    timesteps = np.broadcast_to(pieces["timestep"], len(latents)).astype(np.float32)
    text = nn.from_numpy(pieces["encoder_hidden_states"])
    return nn.to_numpy(model(nn.from_numpy(latents), timesteps, text))


def randomised(**changes: Any) -> UNetMotionModel:
    return tiny.randomised(tiny.made(UNetMotionModel, {**TINY, **changes}))


def inputs(frames: int = 3, height: int = 4, width: int = 6, samples: int = 2) -> dict[str, np.ndarray]:
    return {
        "sample": tiny.normal(samples, 4, frames, height, width),
        "timestep": np.linspace(900, 30, samples),
        "encoder_hidden_states": tiny.normal(samples, 5, 6, seed=2),
    }


@pytest.mark.parametrize("name", cases(FAMILY))
def test_parity(name: str) -> None:
    of: Case = case(name, FAMILY)
    unet = tiny.pipeline(of).unet
    for step in ("first", "last"):
        pieces = tiny.pieces_of(of, f"unet.{step}")
        check_close(f"UNet {name}, {step} step", run(unet, pieces), pieces["output"], 1e-4)


def test_samples_of_a_batch_do_not_see_each_other() -> None:
    model, both = randomised(), inputs()
    alone = [run(model, tiny.part(both, slice(i, i + 1))) for i in range(2)]
    np.testing.assert_allclose(run(model, both), np.concatenate(alone), atol=1e-5)


def test_frames_see_each_other_by_the_motion_modules_alone() -> None:
    model, pieces = randomised(), inputs()
    changed = {**pieces, "sample": pieces["sample"].copy()}
    changed["sample"][:, :, 2] += 1
    assert np.abs(run(model, changed) - run(model, pieces))[:, :, 0].max() > 1e-3
    for key, parameter in nn.named_parameters(model).items():
        if ".motion_modules." in key and ".proj_out." in key:
            parameter.set_data(nn.zeros(parameter.shape))
    apart = run(model, changed) - run(model, pieces)
    np.testing.assert_array_equal(apart[:, :, :2], 0)
    assert np.abs(apart[:, :, 2]).max() > 1e-3


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (7, 2)])
def test_sizes_that_do_not_halve(height: int, width: int) -> None:
    model = randomised()
    assert run(model, inputs(height=height, width=width)).shape == (2, 4, 3, height, width)


def test_without_motion_in_the_middle() -> None:
    keys = nn.named_parameters(randomised(use_motion_mid_block=False))
    assert not any(key.startswith("mid_block.motion_modules") for key in keys)
    assert any(key.startswith("mid_block.motion_modules") for key in nn.named_parameters(randomised()))


MOTION, IMAGES, ADAPTER = UNetMotionConfig, UNet2DConditionConfig, MotionAdapterConfig
THREE_WIDE = {
    "block_out_channels": [32, 64, 96],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"],
}


@pytest.mark.parametrize(
    ("kind", "raw", "message"),
    [
        (MOTION, {**TINY, "norm_num_groups": 3}, r"block_out_channels is \(4, 8\); allowed is multiples of"),
        (MOTION, {**TINY, "layers_per_block": [1]}, r"layers_per_block is \(1,\); allowed is 2 entries"),
        (MOTION, {**TINY, "num_attention_heads": 3}, "num_attention_heads is 3; allowed is divisors"),
        (MOTION, {**TINY, "motion_num_attention_heads": 3}, "motion_num_attention_heads is 3; allowed"),
        (
            MOTION,
            {**TINY, "down_block_types": ["CrossAttnDownBlockMotion"]},
            "down_block_types .*2 entries",
        ),
        (
            MOTION,
            {**TINY, "up_block_types": ["UpBlock2D", "UpBlock2D"]},
            "up_block_types .*CrossAttnUp",
        ),
        (
            MOTION,
            {**TINY, "encoder_hid_dim_type": "ip_image_proj"},
            "encoder_hid_dim_type is 'ip_im",
        ),
        (MOTION, {**TINY, "mid_block_layers": 2}, "mid_block_layers is 2; allowed is 1"),
        (IMAGES, {"class_embed_type": "timestep"}, "class_embed_type is 'timestep'; allowed is null"),
        (IMAGES, {"resnet_time_scale_shift": "scale_shift"}, "resnet_time_scale_shift is 'scale_shift'"),
        (IMAGES, {"only_cross_attention": True}, "only_cross_attention is True; allowed is False"),
        (
            IMAGES,
            {"downsample_padding": 2},
            "downsample_padding is 2; allowed is a whole number from 0",
        ),
        (IMAGES, {**THREE_WIDE, "attention_head_dim": [8, 8]}, "attention_head_dim is .*3 entries"),
        (ADAPTER, {"conv_in_channels": 9}, "conv_in_channels is 9; allowed is null"),
        (
            ADAPTER,
            {"motion_max_seq_length": 0},
            "motion_max_seq_length is 0; allowed is a whole num",
        ),
    ],
)
def test_a_config_that_cannot_be_is_refused_by_its_key(kind: Any, raw: Any, message: str) -> None:
    with pytest.raises(Refused, match=f"^config of {kind.NAME}: {message}"):
        kind.read(raw)


def test_configs_as_published_are_read_without_a_word() -> None:
    # Keys and values of stable-diffusion-v1-5 and of guoyww/animatediff-motion-adapter-v1-5-2.
    unet = {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": "0.6.0",
        "act_fn": "silu",
        "attention_head_dim": 8,
        "block_out_channels": [320, 640, 1280, 1280],
        "center_input_sample": False,
        "cross_attention_dim": 768,
        "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 4,
        "layers_per_block": 2,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": 32,
        "out_channels": 4,
        "sample_size": 64,
        "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
    }
    adapter = {
        "_class_name": "MotionAdapter",
        "_diffusers_version": "0.21.4",
        "block_out_channels": [320, 640, 1280, 1280],
        "motion_layers_per_block": 2,
        "motion_max_seq_length": 32,
        "motion_mid_block_layers_per_block": 1,
        "motion_norm_num_groups": 32,
        "motion_num_attention_heads": 8,
        "use_motion_mid_block": True,
    }
    for kind, raw in ((IMAGES, unet), (ADAPTER, adapter)):
        kind.read(raw)
        assert kind.unknown(raw) == {}
