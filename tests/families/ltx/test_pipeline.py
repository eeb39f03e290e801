"""What affects LTX-Video's frames; what its rules refuse and round."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import references
from vidgen_dist import Refused, RenderRequest, RequestError, load_pipeline
from vidgen_dist.families.common.tasks import Rules
from vidgen_dist.families.loader import AnyPipeline
from vidgen_dist.families.ltx import FAMILY
from vidgen_dist.families.rules import load_rules
from vidgen_dist.weights.checkpoint import open_checkpoint

CASES = references.cases("ltx")


def _small(case: references.Case, **fields: object) -> RenderRequest:
    return dataclasses.replace(case.requests[0], num_inference_steps=2, **fields)


@functools.cache
def _pipeline(name: str) -> AnyPipeline:
    case = references.case(name, "ltx")
    return load_pipeline(str(case.checkpoint), task=case.task)


@functools.cache
def _frames(name: str) -> np.ndarray:
    return _pipeline(name)(_small(references.case(name, "ltx")))


@pytest.mark.parametrize(
    ("name", "fields", "changes"),
    [
        ("0.9.1", {"decode_timestep": 0.4}, True),
        ("0.9.1", {"decode_noise_scale": 0.4}, True),
        # 0.9.0 has neither.
        ("0.9.0", {"decode_timestep": 0.4}, False),
        ("0.9.0", {"decode_noise_scale": 0.4}, False),
        ("0.9.0", {"frame_rate": 8.0}, True),
        ("0.9.0", {"guidance_rescale": 1.0}, True),
    ],
)
def test_what_a_field_decides(name: str, fields: dict[str, float], changes: bool) -> None:
    frames = _pipeline(name)(_small(references.case(name, "ltx"), **fields))
    assert np.array_equal(_frames(name), frames) != changes


# Rules. ----------------------------------------------------------------------------------------


def _rules(name: str, task: str | None = None) -> Rules[Any]:
    return load_rules(open_checkpoint(str(references.case(name, "ltx").checkpoint)), task)


@pytest.mark.parametrize("name", CASES)
def test_resolving_twice_changes_nothing(name: str) -> None:
    case = references.case(name, "ltx")
    rules = _rules(name, case.task)
    for request in case.requests:
        resolved = rules.resolve(request)
        assert rules.resolve(resolved) == resolved
        assert all(getattr(resolved, field) is not None for field in rules.defaults)


def test_every_checkpoint_does_both_tasks() -> None:
    assert _rules("0.9.0").task == "text-to-video"
    assert _rules("0.9.1-i2v").task == "image-to-video"
    for name in CASES:
        assert set(_rules(name).tasks) == {"text-to-video", "image-to-video"}
        with pytest.raises(Refused, match="task 'video-to-video' is not supported"):
            _rules(name, "video-to-video")


@pytest.mark.parametrize("name", CASES)
def test_frames_that_the_model_makes(name: str) -> None:
    case = references.case(name, "ltx")
    configs = FAMILY.read_configs(open_checkpoint(str(case.checkpoint)))
    for request, frames in zip(case.requests, case.frames, strict=True):
        r = _rules(name, case.task).resolve(request)
        _, latent_frames, _, _ = configs.latent_size(r.num_frames, r.height, r.width)
        assert configs.vae.decoded_frames(latent_frames) == len(frames)


@pytest.mark.usefixtures("nothing_told")
def test_rounded_number_of_frames_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    rules = _rules("0.9.0")
    for _ in range(2):
        rules.resolve(RenderRequest(prompt="a fox", num_frames=12))
    assert caplog.messages == ["num_frames 12 makes 9 frames with this model"]


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("height", 48, "a multiple of 32 for this model, such as 64"),
        ("width", 8, "a multiple of 32 for this model, such as 32"),
        ("num_inference_steps", 1, "2 or more with the scheduler's shift_terminal, 0.1"),
        ("strength", 0.5, "LTX-Video text-to-video does not take it"),
        ("eta", 0.5, "LTX-Video text-to-video does not take it"),
        ("image", "first.png", "LTX-Video text-to-video does not take it"),
    ],
)
def test_field_that_the_model_cannot_do(field: str, value: object, allowed: str) -> None:
    with pytest.raises(RequestError) as refusal:
        _rules("0.9.0").resolve(RenderRequest(prompt="a fox", **{field: value}))
    assert refusal.value.field == field
    assert allowed in refusal.value.allowed


def test_a_single_step_where_nothing_is_stretched() -> None:
    request = RenderRequest(prompt="a fox", image="first.png", num_inference_steps=1)
    assert _rules("0.9.5-i2v").resolve(request).num_inference_steps == 1


def test_an_image_is_needed() -> None:
    with pytest.raises(RequestError, match="image: None is not allowed"):
        _rules("0.9.0", "image-to-video").resolve(RenderRequest(prompt="a fox"))


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("vae/config.json", {"spatio_temporal_scaling": 3}, "vae/config.json.*spatio_temporal_scaling is 3"),
        ("vae/config.json", {"patch_size": 0}, "vae/config.json: .*patch_size is 0; .* from 1"),
        (
            "vae/config.json",
            {"latent_channels": 7},
            "transformer/config.json: .*in_channels is 6; allowed is 7, the VAE's",
        ),
        (
            "transformer/config.json",
            {"out_channels": 5},
            "transformer/config.json: .*out_channels is 5; allowed is 6, the VAE's",
        ),
        ("scheduler/scheduler_config.json", {"shift": "x"}, "shift is 'x'; allowed is a number"),
        ("model_index.json", {"scheduler": ["diffusers", "DDPMScheduler"]}, "scheduler is a DDPMScheduler"),
    ],
)
def test_config_that_cannot_be(tmp_path: Path, file: str, values: dict[str, object], message: str) -> None:
    folder = references.case("0.9.1", "ltx").copy_checkpoint(tmp_path)
    references.edit_json(folder / file, **values)
    with pytest.raises(Refused, match=message):
        load_rules(open_checkpoint(folder))
