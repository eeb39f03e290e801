"""What Stable Video Diffusion takes from a row and does with it; how guidance rises; what is refused."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import references
from tests.families import tiny
from tests.planner import published
from vidgen_dist import Refused, RenderRequest, RequestError
from vidgen_dist.families import loader
from vidgen_dist.families.common.tasks import Rules
from vidgen_dist.families.loader import AnyPipeline
from vidgen_dist.families.rules import load_rules
from vidgen_dist.families.stable_video_diffusion.pipeline import weights
from vidgen_dist.spec import ModelOptions
from vidgen_dist.weights.checkpoint import open_checkpoint
from vidgen_dist.weights.load import MatchedWeights

FAMILY = "stable_video_diffusion"
IMG2VID = references.case("img2vid", FAMILY)


def rules_of(folder: Path) -> Rules[Any]:
    return load_rules(open_checkpoint(folder, variant="fp16"))


@pytest.fixture(scope="module")
def rules() -> Rules[Any]:
    return rules_of(IMG2VID.checkpoint)


@pytest.fixture(scope="module")
def pipeline() -> AnyPipeline:
    return tiny.pipeline(IMG2VID)


@pytest.fixture(scope="module")
def before(pipeline: AnyPipeline) -> np.ndarray:
    return pipeline(short())


def short(**fields: Any) -> RenderRequest:
    """A video that takes no time."""
    request = dataclasses.replace(
        IMG2VID.requests[0], height=16, width=16, num_frames=2, num_inference_steps=2
    )
    return RenderRequest(**{**request.values(), **fields})


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of a checkpoint folder, to be damaged."""
    return IMG2VID.copy_checkpoint(tmp_path)


def test_defaults_are_the_pipelines(rules: Rules[Any]) -> None:
    resolved = rules.resolve(RenderRequest(image="a.png"))
    assert resolved.values() == {
        "image": "a.png",
        "seed": 0,
        "id": "",
        "height": 576,
        "width": 1024,
        # The checkpoint's value.
        "num_frames": 5,
        "num_inference_steps": 25,
        "min_guidance_scale": 1.0,
        "max_guidance_scale": 3.0,
        "motion_bucket_id": 127,
        "noise_aug_strength": 0.02,
        "fps": 7.0,
    }
    assert rules.resolve(resolved) == resolved
    assert (rules.family, rules.tasks) == ("Stable Video Diffusion", ("image-to-video",))
    assert rules.required == ("image",)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"height": 36}, "height: 36 is not allowed; a multiple of 8 for this model, such as 32"),
        ({"width": 1020}, "width: 1020 is not allowed; a multiple of 8"),
        ({"motion_bucket_id": 256}, "motion_bucket_id: 256 is not allowed; a whole number from 0 to 255"),
        ({"motion_bucket_id": -1}, "motion_bucket_id: -1 is not allowed; a whole number from 0 to 255"),
        ({"noise_aug_strength": -0.1}, r"noise_aug_strength: -0\.1 is not allowed; a number from 0"),
        ({"decode_chunk_size": 0}, "decode_chunk_size: 0 is not allowed; a whole number from 1"),
        ({"file_fps": 0.0}, r"file_fps: 0\.0 is not allowed; a number from 0\.01 to 1000"),
        ({"guidance_scale": 3.0}, "guidance_scale: 3.0 is not allowed; Stable Video Diffusion image-to-vid"),
        ({"negative_prompt": "x"}, "negative_prompt: 'x' is not allowed; Stable Video Diffusion"),
        ({"image": None}, "image: None is not allowed; image-to-video needs one in every row"),
    ],
)
def test_requests_that_cannot_be(rules: Rules[Any], fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        rules.resolve(RenderRequest(**{"image": "a.png", **fields}))


def test_a_prompt_is_ignored(rules: Rules[Any]) -> None:
    resolved = rules.resolve(RenderRequest(image="a.png", prompt="a fox"))
    assert resolved == rules.resolve(RenderRequest(image="a.png"))
    assert rules.ignored == ("prompt",)


def test_the_files_frames_per_second_are_the_models_unless_another_is_said(rules: Rules[Any]) -> None:
    told, apart = (
        rules.resolve(RenderRequest(image="a.png", fps=10, **fields)) for fields in ({}, {"file_fps": 24})
    )
    assert (told.fps, told.written_fps) == (10, 10)
    assert (apart.fps, apart.written_fps) == (10, 24)
    assert rules.of_task.file_fps == "file_fps"


@pytest.mark.parametrize(
    ("least", "most", "frames", "expected", "guided"),
    [
        (1.0, 3.0, 5, [1, 1.5, 2, 2.5, 3], True),
        (3.0, 2.0, 3, [3, 2.5, 2], True),
        (1.0, 3.0, 1, [1], True),
        (2.0, 1.0, 2, [2, 1], False),
    ],
)
def test_guidance_rises_over_the_frames(
    rules: Rules[Any], least: float, most: float, frames: int, expected: list[float], guided: bool
) -> None:
    r = rules.resolve(
        RenderRequest(image="a.png", min_guidance_scale=least, max_guidance_scale=most, num_frames=frames)
    )
    assert r.is_guided == guided
    np.testing.assert_allclose(weights(r), np.array(expected).reshape(1, -1, 1, 1, 1))


@pytest.mark.parametrize(
    "fields",
    [
        {"fps": 8.0},
        {"motion_bucket_id": 100},
        {"noise_aug_strength": 0.3},
        {"min_guidance_scale": 2.0},
        {"max_guidance_scale": 4.0},
        {"decode_chunk_size": 1},
    ],
    ids=str,
)
def test_what_decides_the_frames(pipeline: AnyPipeline, before: np.ndarray, fields: dict[str, Any]) -> None:
    assert references.largest_difference(before, pipeline(short(**fields))) > 1e-2


def test_the_files_frames_per_second_do_not(pipeline: AnyPipeline, before: np.ndarray) -> None:
    np.testing.assert_array_equal(pipeline(short(file_fps=60)), before)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 700), (3, 2)])
def test_images_of_all_sizes(pipeline: AnyPipeline, height: int, width: int) -> None:
    image = Image.fromarray(np.full((height, width, 3), 90, np.uint8))
    assert pipeline(short(image=image)).shape == (2, 16, 16, 3)


@pytest.mark.parametrize(("dtype", "of_encoder"), [("float16", "float32"), ("bfloat16", None)])
def test_the_encoder_computes_in_what_it_can(
    monkeypatch: pytest.MonkeyPatch, dtype: str, of_encoder: str | None
) -> None:
    """`force_upcast`. On the CPU everything is float32, so the requested dtypes are checked."""
    asked = {}
    monkeypatch.setattr(loader, "compute_dtype", lambda dtype, _: dtype)
    load = MatchedWeights.load

    def watched(self: MatchedWeights, **how: Any) -> None:
        asked[type(self.module).__name__] = (how["dtype"], how["own_dtypes"].get("encoder."))
        load(self, **how)

    monkeypatch.setattr(MatchedWeights, "load", watched)
    loader.load_model(ModelOptions(id=str(IMG2VID.checkpoint), variant="fp16", dtype=dtype))
    assert asked == {
        "CLIPVisionModelWithProjection": (dtype, None),
        "UNetSpatioTemporalConditionModel": (dtype, None),
        "AutoencoderKLTemporalDecoder": (dtype, of_encoder),
    }


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("unet/config.json", {"in_channels": 4}, "in_channels is 4; allowed is 8, twice the VAE's"),
        ("unet/config.json", {"out_channels": 8}, "out_channels is 8; allowed is 4, the VAE's"),
        ("unet/config.json", {"cross_attention_dim": 24}, "cross_attention_dim is 24; allowed is 20, the im"),
        ("image_encoder/config.json", {"image_size": 336}, "image_size is 336; allowed is 224"),
        ("scheduler/scheduler_config.json", {"sigma_max": 0}, "sigma_max is 0; allowed is a number above 0"),
        ("feature_extractor/preprocessor_config.json", {"image_std": [1, 1]}, "image_std is .* list of 3"),
        ("model_index.json", {"vae": ["diffusers", "AutoencoderKL"]}, "vae is a AutoencoderKL; allowed"),
    ],
)
def test_config_that_cannot_be(copied: Path, file: str, values: dict[str, object], message: str) -> None:
    references.edit_json(copied / file, **values)
    with pytest.raises(Refused, match=message):
        rules_of(copied)


def test_a_published_checkpoint_is_read_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        rules = load_rules(published.checkpoint(tmp_path, "stable-video-diffusion"))
    assert rules.defaults["num_frames"] == 25
    assert not caplog.messages
