"""LTX-Video's frames against diffusers' own, checkpoint by checkpoint; and what it takes."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests import references
from vidgen_dist import Refused, RenderRequest, RequestError, load_pipeline
from vidgen_dist.pipelines.ltx_rules import Geometry
from vidgen_dist.pipelines.rendering import Pipeline, State
from vidgen_dist.pipelines.rules import Rules, load_rules
from vidgen_dist.weights.checkpoint import open_checkpoint

TOLERANCE = 1e-3
CASES = references.cases("ltx")


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> references.Case:
    return references.case(request.param, "ltx")


@pytest.fixture(scope="module")
def pipeline(case: references.Case) -> Pipeline:
    return load_pipeline(str(case.checkpoint), task=case.task)


def test_frames_equal_diffusers(case: references.Case, pipeline: Pipeline) -> None:
    for request, expected in zip(case.requests, case.frames, strict=True):
        frames = pipeline(request)
        assert frames.dtype == np.float32
        worst = references.largest_difference(frames, expected)
        print(f"{case.name}: largest difference {worst:.2e} over {len(frames)} frames")
        assert worst <= TOLERANCE


def _small(case: references.Case, **fields: object) -> RenderRequest:
    return dataclasses.replace(case.requests[0], num_inference_steps=2, **fields)


def test_seed_decides_frames(case: references.Case, pipeline: Pipeline) -> None:
    one, same, other = (pipeline(_small(case, seed=seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_stages_are_timed_and_steps_told() -> None:
    case = references.case("0.9.1", "ltx")
    pipeline = load_pipeline(str(case.checkpoint))
    told: list[tuple[str, int, int]] = []
    rendering = pipeline.render(_small(case), on_progress=lambda *progress: told.append(progress))
    assert set(rendering.seconds) == {"encode", "denoise", "decode"}
    denoising = [("denoise", i, 2) for i in range(3)]
    assert told == [("encode", 0, 1), *denoising, ("decode", 0, 1)]


@pytest.mark.parametrize(
    ("name", "fields", "changes"),
    [
        ("0.9.1", {"decode_timestep": 0.4}, True),
        ("0.9.1", {"decode_noise_scale": 0.4}, True),
        # Of 0.9.0 neither is asked.
        ("0.9.0", {"decode_timestep": 0.4}, False),
        ("0.9.0", {"decode_noise_scale": 0.4}, False),
        ("0.9.0", {"frame_rate": 8.0}, True),
        ("0.9.0", {"guidance_rescale": 1.0}, True),
    ],
)
def test_what_a_field_decides(name: str, fields: dict[str, float], changes: bool) -> None:
    case = references.case(name, "ltx")
    pipeline = load_pipeline(str(case.checkpoint), task=case.task)
    same = np.array_equal(pipeline(_small(case)), pipeline(_small(case, **fields)))
    assert same != changes


@pytest.mark.parametrize("name", ["0.9.0", "0.9.1-i2v"])
def test_a_rendering_goes_on_from_any_of_its_states(name: str) -> None:
    case = references.case(name, "ltx")
    pipeline = load_pipeline(str(case.checkpoint), task=case.task)
    states: list[State] = []
    request = _small(case)
    whole = pipeline.render(request, on_state=states.append)
    assert [state.step for state in states] == [1, 2]
    for state in states:
        np.testing.assert_array_equal(pipeline.render(request, resume=state).frames, whole.frames)


# Rules. ----------------------------------------------------------------------------------------


def _rules(name: str, task: str | None = None) -> Rules:
    return load_rules(open_checkpoint(str(references.case(name, "ltx").checkpoint)), task)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A checkpoint folder to spoil."""
    return Path(shutil.copytree(references.case("0.9.1", "ltx").checkpoint, tmp_path / "checkpoint"))


def _edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


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
        with pytest.raises(Refused, match="task 'video-to-video' is not one"):
            _rules(name, "video-to-video")


@pytest.mark.parametrize("name", CASES)
def test_frames_that_the_model_makes(name: str) -> None:
    case = references.case(name, "ltx")
    geometry = Geometry.of(open_checkpoint(str(case.checkpoint)).config("vae"))
    for request, frames in zip(case.requests, case.frames, strict=True):
        assert request.num_frames is not None
        assert geometry.decoded_frames(geometry.latent_frames(request.num_frames)) == len(frames)


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
        ("vae/config.json", {"spatio_temporal_scaling": 3}, "vae: spatio_temporal_scaling is 3"),
        ("vae/config.json", {"patch_size": 0}, "vae: patch_size is 0; .* from 1"),
        ("vae/config.json", {"latent_channels": 7}, "transformer/config.json: in_channels 6 does not fit"),
        ("transformer/config.json", {"out_channels": 5}, "transformer/config.json: out_channels 5 does not"),
        ("scheduler/scheduler_config.json", {"shift": "x"}, "shift 'x' is not allowed"),
        ("model_index.json", {"scheduler": ["diffusers", "DDPMScheduler"]}, "scheduler is a DDPMScheduler"),
    ],
)
def test_config_that_cannot_be(copied: Path, file: str, values: dict[str, object], message: str) -> None:
    _edit(copied / file, **values)
    with pytest.raises(Refused, match=message):
        load_rules(open_checkpoint(str(copied)))
