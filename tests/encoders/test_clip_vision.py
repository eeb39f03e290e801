"""CLIP's image encoder: parity with transformers, what its files hold, refusals."""

import json

import numpy as np
import pytest

from tests.families import tiny
from tests.references import check_close, component
from vidgen_dist import nn
from vidgen_dist.encoders.clip_vision import CLIPVisionModelWithProjection, normalised
from vidgen_dist.encoders.config import ClipImageProcessorConfig, ClipVisionConfig
from vidgen_dist.errors import Refused

FOLDER, PIECES = component("clip_vision")
TINY = {
    "hidden_size": 16,
    "intermediate_size": 10,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "image_size": 8,
    "patch_size": 4,
    "projection_dim": 6,
}


def encode(model, pixels):
    return nn.to_numpy(model(nn.from_numpy(pixels)))


def test_parity():
    model = tiny.loaded_from(CLIPVisionModelWithProjection, FOLDER)
    check_close("CLIP's image encoder", encode(model, PIECES["pixels"]), PIECES["embeds"], 2e-5)


def test_colours_are_normalised_as_the_processor_says():
    raw = json.loads((FOLDER / "preprocessor_config.json").read_text(encoding="utf-8"))
    processor = ClipImageProcessorConfig.read(raw)
    images = PIECES["images"].astype(np.float32) / 255
    ours = np.concatenate([normalised(image, processor) for image in images])
    np.testing.assert_allclose(ours, PIECES["pixels"], atol=1e-6)


def test_every_parameter_is_used():
    model = tiny.randomised(tiny.made(CLIPVisionModelWithProjection, TINY))
    pixels = tiny.normal(2, 3, 8, 8)
    # An offset that all keys share has no effect.
    unseen = tiny.without_effect(model, {"": lambda: encode(model, pixels)})
    assert unseen == ["vision_model.encoder.layers.0.self_attn.k_proj.bias"]


def test_a_table_of_positions_is_left_out():
    own_key = CLIPVisionModelWithProjection(ClipVisionConfig.read(TINY)).own_key
    assert own_key("vision_model.embeddings.position_ids") is None
    assert own_key("visual_projection.weight") == "visual_projection.weight"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_attention_heads": 3}, "hidden_size is 16; allowed is a multiple of num_attention_heads, 3"),
        ({"hidden_act": "snake"}, "hidden_act is 'snake'; allowed is one of relu,"),
        ({"patch_size": 9}, "patch_size is 9; allowed is a whole number from 1 up to image_size, 8"),
        ({"num_channels": 4}, "num_channels is 4; allowed is 3"),
        ({"projection_dim": 0}, "projection_dim is 0; allowed is a whole number from 1"),
    ],
)
def test_a_config_that_cannot_be_is_refused_by_its_key(changes, message):
    with pytest.raises(Refused, match=f"^config of CLIPVisionModelWithProjection: {message}"):
        ClipVisionConfig.read({**TINY, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_mean": [0.5]}, r"image_mean is \[0\.5\]; allowed is a list of 3, each a number"),
        ({"image_std": [1, 1, 0]}, r"image_std is .*; allowed is a list of 3, each a number above 0"),
        ({"crop_size": {"shortest_edge": 224}}, "crop_size is .*; allowed is .* height and width"),
        ({"crop_size": 0}, "crop_size is 0; allowed is a whole number from 1"),
    ],
)
def test_a_processor_that_cannot_be_is_refused_by_its_key(changes, message):
    with pytest.raises(Refused, match=f"^config of CLIPImageProcessor: {message}"):
        ClipImageProcessorConfig.read(changes)


def test_the_crop_is_a_side_or_two():
    assert ClipImageProcessorConfig.read({}).crop == (224, 224)
    assert ClipImageProcessorConfig.read({"crop_size": {"height": 3, "width": 5}}).crop == (3, 5)
