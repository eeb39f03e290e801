"""Mochi's frames against diffusers' own, alone and in gangs; what its rules refuse and round."""

from __future__ import annotations

import dataclasses
import functools
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
from vidgen_dist.pipelines.mochi import linear_quadratic_sigmas
from vidgen_dist.pipelines.rendering import Pipeline, Rendering, State
from vidgen_dist.pipelines.rules import Rules, load_rules
from vidgen_dist.weights.checkpoint import open_checkpoint

FAMILY = "mochi"
TOLERANCE = 1e-3
TOLERANCE_OF_GANGS = 1e-4


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


def test_sigmas_go_half_way_along_a_line() -> None:
    for steps in (2, 3, 8, 64):
        sigmas = linear_quadratic_sigmas(steps)
        assert len(sigmas) == steps
        assert sigmas[0] == 1
        np.testing.assert_allclose(sigmas[steps // 2], 0.975)
        descents = -np.diff([*sigmas, 0])
        np.testing.assert_allclose(descents[: steps // 2], 0.025 / (steps // 2))
        # Each goes further than the one before, by as much more.
        np.testing.assert_allclose(np.diff(descents[steps // 2 :], 2), 0, atol=1e-12)
        assert descents[-1] > descents[0]


# Gangs. ----------------------------------------------------------------------------------------

DEGREES = [
    Degrees(ulysses=2),
    Degrees(cfg=2),
    Degrees(ulysses=2, ring=2),
    Degrees(ulysses=2, cfg=2),
    # Of three heads, two rows of latents and one token of text some ranks have none.
    Degrees(ulysses=4),
]


def render(mesh: Mesh | None, name: str, requests: list[RenderRequest]) -> list[Rendering]:
    pipeline = load(name, mesh)
    return [pipeline.render(request) for request in requests]


def _few_steps(name: str) -> list[RenderRequest]:
    """The first request and the last: of `t2v` without guidance, of `odd` without any token of the prompt."""
    first, *_, last = references.case(name, FAMILY).requests
    return [dataclasses.replace(r, num_inference_steps=2, max_sequence_length=24) for r in (first, last)]


@functools.cache
def _of_one_rank(name: str) -> list[Rendering]:
    return render(None, name, _few_steps(name))


@pytest.mark.parametrize(
    ("name", "degrees"), [*(("t2v", degrees) for degrees in DEGREES), ("odd", Degrees(ulysses=3))], ids=str
)
def test_frames_equal_those_of_one_rank(ranks: Ranks, name: str, degrees: Degrees) -> None:
    renderings = ranks.run(render, name, _few_steps(name), degrees=degrees)
    for of_gang, alone in zip(renderings[0], _of_one_rank(name), strict=True):
        worst = references.largest_difference(of_gang.frames, alone.frames)
        print(f"{name} {degrees}: largest difference {worst:.2e}")
        assert worst <= TOLERANCE_OF_GANGS
    sent = renderings[0][0].sent
    assert {"weights", "rows"} <= sent.keys()
    assert ("ulysses" in sent) == (degrees.ulysses > 1)
    assert ("ring" in sent) == (degrees.ring > 1)


# Rules. ----------------------------------------------------------------------------------------


def rules_of(folder: Path) -> Rules:
    return load_rules(open_checkpoint(folder, variant="bf16"))


@pytest.fixture(scope="module")
def rules() -> Rules:
    return rules_of(references.case("t2v", FAMILY).checkpoint)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A checkpoint folder to spoil."""
    return Path(shutil.copytree(references.case("t2v", FAMILY).checkpoint, tmp_path / "checkpoint"))


def _edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_defaults_are_the_pipelines(rules: Rules) -> None:
    resolved = rules.resolve(RenderRequest(prompt="a fox"))
    assert dataclasses.asdict(resolved) | {
        "height": 480,
        "width": 848,
        "num_frames": 19,
        "num_inference_steps": 64,
        "guidance_scale": 4.5,
        "max_sequence_length": 256,
        "fps": 30.0,
        "negative_prompt": "",
    } == dataclasses.asdict(resolved)
    assert rules.resolve(resolved) == resolved
    assert (rules.family, rules.tasks) == ("Mochi", ("text-to-video",))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"height": 24}, "height: 24 is not allowed; a multiple of 16"),
        ({"width": 40}, "width: 40 is not allowed; a multiple of 16"),
        ({"num_inference_steps": 1}, "num_inference_steps: 1 is not allowed; 2 or more"),
        ({"image": "a.png"}, "image: 'a.png' is not allowed; Mochi text-to-video does not take it"),
        ({"use_dynamic_cfg": True}, "use_dynamic_cfg: True is not allowed"),
        ({"guidance_rescale": 0.5}, "guidance_rescale: 0.5 is not allowed"),
    ],
)
def test_requests_that_cannot_be(rules: Rules, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        rules.resolve(RenderRequest(prompt="a fox", **fields))


def test_frames_are_rounded_with_a_warning(rules: Rules, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        rules.resolve(RenderRequest(prompt="a fox", num_frames=85))
        assert not caplog.messages
        rules.resolve(RenderRequest(prompt="a fox", num_frames=84))
    assert caplog.messages == ["num_frames 84 makes 79 frames with this model"]


def test_what_is_made_of_an_empty_prompt(copied: Path) -> None:
    """The switch is without effect on other prompts."""
    requests = [
        dataclasses.replace(
            references.case("t2v", FAMILY).requests[2], num_inference_steps=2, guidance_scale=2.0, **fields
        )
        for fields in ({"negative_prompt": ""}, {"negative_prompt": "blurry"})
    ]
    plain = [load_pipeline(str(copied), variant="bf16")(request) for request in requests]
    _edit(copied / "model_index.json", force_zeros_for_empty_prompt=True)
    zeroed = [load_pipeline(str(copied), variant="bf16")(request) for request in requests]
    assert references.largest_difference(zeroed[0], plain[0]) > 1e-3
    np.testing.assert_array_equal(zeroed[1], plain[1])


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("transformer/config.json", {"in_channels": 8}, "in_channels is 8; allowed is 12, the VAE's"),
        ("transformer/config.json", {"out_channels": 8}, "out_channels is 8; allowed is 12, in_channels"),
        ("transformer/config.json", {"text_embed_dim": 24}, "text_embed_dim is 24; allowed is 32"),
        ("transformer/config.json", {"patch_size": 0}, "patch_size is 0; allowed is a number from 1"),
        ("vae/config.json", {"spatial_expansions": 8}, "spatial_expansions is 8; allowed is a list"),
        ("scheduler/scheduler_config.json", {"use_dynamic_shifting": True}, "allowed is false"),
        ("scheduler/scheduler_config.json", {"shift": "x"}, "shift 'x' is not allowed"),
        ("model_index.json", {"force_zeros_for_empty_prompt": 1}, "is 1; allowed is true or false"),
        ("model_index.json", {"vae": ["diffusers", "AutoencoderKL"]}, "vae is a AutoencoderKL; allowed"),
    ],
)
def test_config_that_cannot_be(copied: Path, file: str, values: dict[str, object], message: str) -> None:
    _edit(copied / file, **values)
    with pytest.raises(Refused, match=message):
        rules_of(copied)


def test_a_vae_of_other_sizes_is_warned_of(copied: Path, caplog: pytest.LogCaptureFixture) -> None:
    _edit(copied / "vae/config.json", spatial_expansions=[2, 2, 1])
    with caplog.at_level(logging.WARNING):
        rules_of(copied)
    assert "the VAE makes 4 pixels of a latent, which stands for 8" in caplog.text
