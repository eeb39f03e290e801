"""What only HunyuanVideo does: two guidances, a prompt template; what its rules refuse and round."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import references
from tests.parallel.ranks import Ranks
from vidgen_dist import Refused, RenderRequest, RequestError, load_pipeline
from vidgen_dist.families.common.rendering import Rendering
from vidgen_dist.families.common.tasks import Rules
from vidgen_dist.families.hunyuan_video.rules import HunyuanVideoRequest
from vidgen_dist.families.loader import AnyPipeline
from vidgen_dist.families.rules import load_rules
from vidgen_dist.parallel.degrees import Degrees
from vidgen_dist.parallel.mesh import Mesh
from vidgen_dist.weights.checkpoint import open_checkpoint

FAMILY = "hunyuan_video"
T2V = references.case("t2v", FAMILY)


def load(mesh: Mesh | None = None) -> AnyPipeline:
    return load_pipeline(str(T2V.checkpoint), mesh=mesh)


@pytest.fixture(scope="module")
def pipeline() -> AnyPipeline:
    return load()


def test_what_each_guidance_does(pipeline: AnyPipeline) -> None:
    request = dataclasses.replace(T2V.requests[1], num_inference_steps=1, num_frames=1)

    def frames(**fields: Any) -> np.ndarray:
        return pipeline(dataclasses.replace(request, **fields))

    plain = frames(true_cfg_scale=None, negative_prompt=None)
    np.testing.assert_array_equal(frames(true_cfg_scale=1.0), plain)
    np.testing.assert_array_equal(frames(negative_prompt=None), plain)
    for fields in ({}, {"negative_prompt": ""}, {"guidance_scale": 9.0, "true_cfg_scale": 1.0}):
        assert references.largest_difference(frames(**fields), plain) > 1e-3


def render(mesh: Mesh, request: RenderRequest) -> Rendering:
    return load(mesh).render(request)


def test_ranks_without_a_token_of_the_prompt(ranks: Ranks, pipeline: AnyPipeline) -> None:
    request = dataclasses.replace(T2V.requests[0], num_inference_steps=2, max_sequence_length=2)
    of_gang, *_ = ranks.run(render, request, degrees=Degrees(ulysses=4))
    assert references.largest_difference(of_gang.frames, pipeline(request)) <= 1e-4
    assert {"weights", "rows", "ulysses", "halo", "norm", "attention"} <= of_gang.sent.keys()


# Rules. ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rules() -> Rules[HunyuanVideoRequest]:
    return load_rules(open_checkpoint(T2V.checkpoint))


def test_defaults_are_the_pipelines(rules: Rules[HunyuanVideoRequest]) -> None:
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
def test_requests_that_cannot_be(
    rules: Rules[HunyuanVideoRequest], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        rules.resolve(RenderRequest(prompt="a fox", **fields))


@pytest.mark.usefixtures("nothing_told")
def test_frames_are_rounded_with_a_warning(
    rules: Rules[HunyuanVideoRequest], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        rules.resolve(RenderRequest(prompt="a fox", num_frames=61))
        assert not caplog.messages
        rules.resolve(RenderRequest(prompt="a fox", num_frames=68))
    assert caplog.messages == ["num_frames 68 makes 65 frames with this model"]


@pytest.mark.usefixtures("nothing_told")
def test_guidance_without_a_negative_prompt_is_warned_of(
    rules: Rules[HunyuanVideoRequest], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        rules.resolve(RenderRequest(prompt="a fox", true_cfg_scale=7.25, negative_prompt=""))
        assert not caplog.messages
        for weight in (7.25, 7.5):
            rules.resolve(RenderRequest(prompt="a fox", true_cfg_scale=weight))
    assert caplog.messages == ["true_cfg_scale has no effect in rows without a negative_prompt"]


def test_a_prompt_of_which_nothing_is_left(pipeline: AnyPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidgen_dist.families.hunyuan_video.pipeline.TEMPLATE", "{}")
    with pytest.raises(RequestError, match="prompt: 'a fox' is not allowed; a prompt with tokens after"):
        pipeline(dataclasses.replace(T2V.requests[0], prompt="a fox"))


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
    folder = T2V.copy_checkpoint(tmp_path)
    (config,) = (path for path in (folder / component).glob("*config.json"))
    references.edit_json(config, **changes)
    with pytest.raises(Refused, match=message):
        load_rules(open_checkpoint(folder))


def test_frames_of_a_token_are_whole(tmp_path: Path) -> None:
    folder = T2V.copy_checkpoint(tmp_path)
    references.edit_json(folder / "transformer/config.json", patch_size_t=2)
    rules = load_rules(open_checkpoint(folder))
    rules.resolve(RenderRequest(prompt="a fox", num_frames=61))
    with pytest.raises(
        RequestError, match=r"num_frames: 65 .* latent frames \(here 17\) are a multiple of 2"
    ):
        rules.resolve(RenderRequest(prompt="a fox", num_frames=65))
