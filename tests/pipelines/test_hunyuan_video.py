"""HunyuanVideo's frames against diffusers' own; what its rules refuse and round."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import references
from tests.parallel.ranks import Ranks
from vidgen_dist import Refused, RenderRequest, RequestError, load_pipeline
from vidgen_dist.parallel.mesh import Degrees, Mesh
from vidgen_dist.pipelines.rendering import Pipeline, Rendering, State
from vidgen_dist.pipelines.rules import Rules, load_rules
from vidgen_dist.weights.checkpoint import open_checkpoint

FAMILY = "hunyuan_video"
TOLERANCE = 1e-3


def load(name: str, mesh: Mesh | None = None) -> Pipeline:
    case = references.case(name, FAMILY)
    return load_pipeline(str(case.checkpoint), variant=case.variant, mesh=mesh)


@pytest.fixture(scope="module", params=references.cases(FAMILY))
def case(request: pytest.FixtureRequest) -> references.Case:
    return references.case(request.param, FAMILY)


@pytest.fixture(scope="module")
def pipeline(case: references.Case) -> Pipeline:
    return load(case.name)


def test_frames_equal_diffusers(case: references.Case, pipeline: Pipeline) -> None:
    for request, expected in zip(case.requests, case.frames, strict=True):
        frames = pipeline(request)
        assert frames.dtype == np.float32
        worst = references.largest_difference(frames, expected)
        print(f"{case.name}: largest difference {worst:.2e} over {len(frames)} frames")
        assert worst <= TOLERANCE


def test_stages_and_steps_are_told_and_a_state_is_enough_to_go_on(
    case: references.Case, pipeline: Pipeline
) -> None:
    told: list[tuple[str, int, int]] = []
    states: list[State] = []
    request = case.requests[0]
    whole = pipeline.render(request, lambda *progress: told.append(progress), on_state=states.append)
    steps = request.num_inference_steps
    assert steps is not None
    denoising = [("denoise", i, steps) for i in range(steps + 1)]
    assert told == [("encode", 0, 1), *denoising, ("decode", 0, 1)]
    assert [state.step for state in states] == list(range(1, steps + 1))
    rest = pipeline.render(request, resume=states[-2])
    np.testing.assert_array_equal(rest.frames, whole.frames)


def test_what_each_guidance_does() -> None:
    pipeline = load("t2v")
    request = dataclasses.replace(
        references.case("t2v", FAMILY).requests[1], num_inference_steps=1, num_frames=1
    )

    def frames(**fields: Any) -> np.ndarray:
        return pipeline(dataclasses.replace(request, **fields))

    plain = frames(true_cfg_scale=None, negative_prompt=None)
    np.testing.assert_array_equal(frames(true_cfg_scale=1.0), plain)
    np.testing.assert_array_equal(frames(negative_prompt=None), plain)
    for fields in ({}, {"negative_prompt": ""}, {"guidance_scale": 9.0, "true_cfg_scale": 1.0}):
        assert references.largest_difference(frames(**fields), plain) > 1e-3


def render(mesh: Mesh | None, request: RenderRequest) -> Rendering:
    return load("t2v", mesh).render(request)


def test_ranks_without_a_token_of_the_prompt(ranks: Ranks) -> None:
    request = dataclasses.replace(
        references.case("t2v", FAMILY).requests[0], num_inference_steps=2, max_sequence_length=2
    )
    of_gang, *_ = ranks.run(render, request, degrees=Degrees(ulysses=4))
    assert references.largest_difference(of_gang.frames, render(None, request).frames) <= 1e-4
    assert {"weights", "rows", "ulysses", "halo", "norm", "attention"} <= of_gang.sent.keys()


# Rules. ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rules() -> Rules:
    return load_rules(open_checkpoint(references.case("t2v", FAMILY).checkpoint))


def test_defaults_are_the_pipelines(rules: Rules) -> None:
    resolved = rules.resolve(RenderRequest(prompt="a fox"))
    assert dataclasses.asdict(resolved) | {
        "height": 720,
        "width": 1280,
        "num_frames": 129,
        "num_inference_steps": 50,
        "true_cfg_scale": 1.0,
        "guidance_scale": 6.0,
        "max_sequence_length": 256,
        "fps": 15.0,
        "negative_prompt": None,
    } == dataclasses.asdict(resolved)
    assert rules.resolve(resolved) == resolved
    assert (rules.family, rules.tasks) == ("HunyuanVideo", ("text-to-video",))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"height": 24}, "height: 24 is not allowed; a multiple of 16"),
        ({"width": 40}, "width: 40 is not allowed; a multiple of 16"),
        ({"image": "a.png"}, "image: 'a.png' is not allowed; HunyuanVideo text-to-video does not take it"),
        ({"use_dynamic_cfg": True}, "use_dynamic_cfg: True is not allowed"),
        ({"strength": 0.5}, "strength: 0.5 is not allowed"),
    ],
)
def test_requests_that_cannot_be(rules: Rules, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        rules.resolve(RenderRequest(prompt="a fox", **fields))


def test_frames_are_rounded_with_a_warning(rules: Rules, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        rules.resolve(RenderRequest(prompt="a fox", num_frames=61))
        assert not caplog.messages
        rules.resolve(RenderRequest(prompt="a fox", num_frames=68))
    assert caplog.messages == ["num_frames 68 makes 65 frames with this model"]


def test_guidance_without_a_negative_prompt_is_warned_of(
    rules: Rules, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        rules.resolve(RenderRequest(prompt="a fox", true_cfg_scale=7.25, negative_prompt=""))
        assert not caplog.messages
        rules.resolve(RenderRequest(prompt="a fox", true_cfg_scale=7.25))
    assert caplog.messages == ["true_cfg_scale 7.25 does nothing in rows without a negative_prompt"]


def test_a_prompt_of_which_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidgen_dist.pipelines.hunyuan_video.TEMPLATE", "{}")
    with pytest.raises(RequestError, match="prompt: 'a fox' is not allowed; one that makes"):
        load("t2v")(dataclasses.replace(references.case("t2v", FAMILY).requests[0], prompt="a fox"))


@pytest.mark.parametrize(
    ("component", "changes", "message"),
    [
        ("transformer", {"in_channels": 8}, "in_channels is 8; allowed is 4, the VAE's latent_channels"),
        ("transformer", {"out_channels": 8}, "out_channels is 8; allowed is 4, the VAE's"),
        ("transformer", {"text_embed_dim": 25}, "text_embed_dim is 25; allowed is 24, text_encoder's"),
        (
            "text_encoder_2",
            {"hidden_size": 24},
            "pooled_projection_dim is 20; allowed is 24",
        ),
        (
            "text_encoder_2",
            {"max_position_embeddings": 64},
            "max_position_embeddings is 64; allowed is 77",
        ),
        ("scheduler", {"use_dynamic_shifting": True}, "use_dynamic_shifting is True; allowed is false"),
        (
            "vae",
            {"spatial_compression_ratio": 0},
            "spatial_compression_ratio is 0; allowed is a",
        ),
    ],
)
def test_components_that_do_not_fit(
    tmp_path: Path, component: str, changes: dict[str, Any], message: str
) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(references.case("t2v", FAMILY).checkpoint, folder)
    (config,) = (path for path in (folder / component).glob("*config.json"))
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    with pytest.raises(Refused, match=message):
        load_rules(open_checkpoint(folder))


def test_frames_of_a_token_are_whole(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(references.case("t2v", FAMILY).checkpoint, folder)
    config = folder / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"patch_size_t": 2}))
    rules = load_rules(open_checkpoint(folder))
    rules.resolve(RenderRequest(prompt="a fox", num_frames=61))
    with pytest.raises(
        RequestError, match=r"num_frames: 65 .* latent frames \(here 17\) are a multiple of 2"
    ):
        rules.resolve(RenderRequest(prompt="a fox", num_frames=65))
