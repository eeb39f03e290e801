"""What only I2VGen-XL does: an image used in three ways, its posterior sampled first; what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import references
from vidgen_dist import Refused, RenderRequest, RequestError, load_pipeline
from vidgen_dist.families.common.rendering import seeded
from vidgen_dist.families.common.tasks import Rules
from vidgen_dist.families.i2vgen_xl.pipeline import I2VGenXLPipeline, cropped
from vidgen_dist.families.i2vgen_xl.rules import I2VGenXLRequest
from vidgen_dist.families.loader import AnyPipeline
from vidgen_dist.families.rules import load_rules
from vidgen_dist.media import MediaError
from vidgen_dist.weights.checkpoint import open_checkpoint

FAMILY = "i2vgen_xl"
I2V = references.case("i2v", FAMILY)
# No guidance, a single frame.
PLAIN = I2V.requests[2]


@pytest.fixture(scope="module")
def pipeline() -> AnyPipeline:
    return load_pipeline(str(I2V.checkpoint))


def test_what_the_unet_is_told_is_diffusers(pipeline: I2VGenXLPipeline) -> None:
    """Hidden states, the image's CLIP vector, its latents and the noise, in the order of drawing."""
    r = pipeline.rules.resolve(I2V.requests[0])
    start = pipeline.prepare(r, pipeline.encode(r), seeded(r.seed))
    both = start.halves.of_rank(True, pipeline.mesh)
    told = {
        "encoder_hidden_states": both.hidden,
        "image_embeddings": both.image[:, None],
        "image_latents": np.repeat(start.image, 2, axis=0),
        "sample": np.repeat(start.latents, 2, axis=0),
    }
    for key, ours in told.items():
        references.check_close(key, ours, I2V.pieces[f"unet.first.{key}"], 1e-5)
    assert I2V.pieces["unet.first.fps"].tolist() == [r.target_fps] * 2
    assert start.schedule.timesteps[0] == I2V.pieces["unet.first.timestep"]


def test_what_each_field_does(pipeline: AnyPipeline) -> None:
    def frames(**fields: Any) -> np.ndarray:
        return pipeline(dataclasses.replace(PLAIN, **fields))

    plain = frames()
    for same in ({"negative_prompt": None}, {"guidance_scale": 0.5}, {"decode_chunk_size": 7}):
        np.testing.assert_array_equal(frames(**same), plain)
    for other in (
        {"guidance_scale": 1.5},
        {"target_fps": 30},
        {"clip_skip": 1},
        {"eta": 1.0},
        {"image": I2V.requests[1].image},
    ):
        assert references.largest_difference(frames(**other), plain) > 1e-3


def test_frames_are_decoded_a_few_at_a_time(pipeline: AnyPipeline) -> None:
    request = dataclasses.replace(I2V.requests[0], num_inference_steps=1)
    together, apart = (pipeline(dataclasses.replace(request, decode_chunk_size=n)) for n in (5, 2))
    np.testing.assert_allclose(apart, together, atol=1e-6)


# Images. ---------------------------------------------------------------------------------------


def test_the_middle_of_an_image_fills_the_frame() -> None:
    halves = np.zeros((20, 80, 3), np.uint8)
    halves[:, 40:] = 255
    middle = np.asarray(cropped(Image.fromarray(halves), 20, 10))
    assert middle.shape == (10, 20, 3)
    assert middle[:, :10].max() == 0
    assert middle[:, 10:].min() == 255


def test_an_image_of_one_pixel_is_enough() -> None:
    assert cropped(Image.new("RGB", (1, 1), "red"), 64, 32).getpixel((63, 31)) == (255, 0, 0)


def test_an_image_that_is_too_narrow_to_fill_a_frame() -> None:
    wide = Image.new("RGB", (20_000, 4))
    with pytest.raises(MediaError, match=r"must be scaled to .* to fill 1280x704; .* up to 89,"):
        cropped(wide, 1280, 704)


# Rules. ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rules() -> Rules[I2VGenXLRequest]:
    return load_rules(open_checkpoint(I2V.checkpoint))


def test_defaults_are_the_pipelines(rules: Rules[I2VGenXLRequest]) -> None:
    resolved = rules.resolve(RenderRequest(prompt="a fox", image="a.png"))
    assert dataclasses.asdict(resolved) | {
        "negative_prompt": "",
        "height": 704,
        "width": 1280,
        "num_frames": 16,
        "num_inference_steps": 50,
        "guidance_scale": 9.0,
        "eta": 0.0,
        "target_fps": 16.0,
        "clip_skip": 1,
        "decode_chunk_size": 1,
        "fps": 8.0,
    } == dataclasses.asdict(resolved)
    assert rules.resolve(resolved) == resolved
    assert (rules.family, rules.tasks) == ("I2VGen-XL", ("image-to-video",))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"height": 44}, "height: 44 is not allowed; a multiple of 8"),
        ({"width": 36}, "width: 36 is not allowed; a multiple of 8"),
        ({"image": None}, "image: None is not allowed; image-to-video needs one in every row"),
        ({"clip_skip": 4}, "clip_skip: 4 is not allowed; up to 3, the layers of the text encoder"),
        ({"clip_skip": -1}, "clip_skip: -1 is not allowed; a whole number from 0"),
        ({"target_fps": 0}, "target_fps: 0 is not allowed; a number from 0.01 to 1000"),
        ({"decode_chunk_size": 0}, "decode_chunk_size: 0 is not allowed; a whole number from 1"),
        (
            {"max_sequence_length": 77},
            "max_sequence_length: 77 is not allowed; I2VGen-XL image-to-video does",
        ),
        ({"num_inference_steps": 1001}, "num_inference_steps: 1001 is not allowed; "),
        ({"strength": 0.5}, "strength: 0.5 is not allowed; I2VGen-XL image-to-video does not take it"),
    ],
)
def test_requests_that_cannot_be(rules: Rules[I2VGenXLRequest], fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        rules.resolve(RenderRequest(**{"prompt": "a fox", "image": "a.png", **fields}))


def test_sizes_fit_the_autoencoder(tmp_path: Path) -> None:
    """A VAE whose latents may be less than an eighth of the pixels."""
    folder = I2V.copy_checkpoint(tmp_path)
    references.edit_json(
        folder / "vae/config.json",
        block_out_channels=[4, 8, 8, 8, 8],
        down_block_types=["DownEncoderBlock2D"] * 5,
        up_block_types=["UpDecoderBlock2D"] * 5,
    )
    rules = load_rules(open_checkpoint(folder))
    with pytest.raises(RequestError, match="height: 40 is not allowed; a multiple of 16"):
        rules.resolve(RenderRequest(prompt="a fox", image="a.png", height=40))


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("vae/config.json", {"latent_channels": 8}, "latent_channels is 8; allowed is 4, the UNet's in_chan"),
        (
            "text_encoder/config.json",
            {"hidden_size": 24},
            "hidden_size is 24; allowed is 20, the UNet's cross_attention_dim",
        ),
        (
            "image_encoder/config.json",
            {"projection_dim": 24},
            "projection_dim is 24; allowed is 20, the UNet's cross_attention_dim",
        ),
        (
            "feature_extractor/preprocessor_config.json",
            {"crop_size": {"height": 28, "width": 32}},
            "crop_size is .*; allowed is 28, the image_encoder's image_size",
        ),
    ],
)
def test_components_that_do_not_fit(tmp_path: Path, file: str, changes: dict[str, Any], message: str) -> None:
    folder = I2V.copy_checkpoint(tmp_path)
    references.edit_json(folder / file, **changes)
    with pytest.raises(Refused, match=f"{file}: config of .*: {message}"):
        load_rules(open_checkpoint(folder))
