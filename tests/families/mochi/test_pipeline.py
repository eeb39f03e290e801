"""Mochi's noise levels; its treatment of an empty prompt; what its rules refuse and round."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import references
from vidgen_dist import Refused, RenderRequest, RequestError, load_pipeline
from vidgen_dist.families.common.tasks import Rules
from vidgen_dist.families.mochi.pipeline import linear_quadratic_sigmas
from vidgen_dist.families.rules import load_rules
from vidgen_dist.weights.checkpoint import open_checkpoint

T2V = references.case("t2v", "mochi")


def test_sigmas_go_half_way_along_a_line() -> None:
    for steps in (2, 3, 8, 64):
        sigmas = linear_quadratic_sigmas(steps)
        assert len(sigmas) == steps
        assert sigmas[0] == 1
        np.testing.assert_allclose(sigmas[steps // 2], 0.975)
        descents = -np.diff([*sigmas, 0])
        np.testing.assert_allclose(descents[: steps // 2], 0.025 / (steps // 2))
        # Each step is larger than the one before, by the same amount.
        np.testing.assert_allclose(np.diff(descents[steps // 2 :], 2), 0, atol=1e-12)
        assert descents[-1] > descents[0]


# Rules. ----------------------------------------------------------------------------------------


def rules_of(folder: Path) -> Rules:
    return load_rules(open_checkpoint(folder, variant="bf16"))


@pytest.fixture(scope="module")
def rules() -> Rules:
    return rules_of(T2V.checkpoint)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of a checkpoint folder, to be damaged."""
    return T2V.copy_checkpoint(tmp_path)


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


@pytest.mark.usefixtures("nothing_told")
def test_frames_are_rounded_with_a_warning(rules: Rules, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        rules.resolve(RenderRequest(prompt="a fox", num_frames=85))
        assert not caplog.messages
        rules.resolve(RenderRequest(prompt="a fox", num_frames=84))
    assert caplog.messages == ["num_frames 84 makes 79 frames with this model"]


def test_what_is_made_of_an_empty_prompt(copied: Path) -> None:
    """The switch has no effect on other prompts."""
    requests = [
        dataclasses.replace(T2V.requests[2], num_inference_steps=2, guidance_scale=2.0, **fields)
        for fields in ({"negative_prompt": ""}, {"negative_prompt": "blurry"})
    ]
    plain = list(map(load_pipeline(str(copied), variant="bf16"), requests))
    references.edit_json(copied / "model_index.json", force_zeros_for_empty_prompt=True)
    zeroed = list(map(load_pipeline(str(copied), variant="bf16"), requests))
    assert references.largest_difference(zeroed[0], plain[0]) > 1e-3
    np.testing.assert_array_equal(zeroed[1], plain[1])


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("transformer/config.json", {"in_channels": 8}, "in_channels is 8; allowed is 12, the VAE's"),
        ("transformer/config.json", {"out_channels": 8}, "out_channels is 8; allowed is 12, in_channels"),
        ("transformer/config.json", {"text_embed_dim": 24}, "text_embed_dim is 24; allowed is 32"),
        ("transformer/config.json", {"patch_size": 0}, "patch_size is 0; allowed is a whole number from 1"),
        ("vae/config.json", {"spatial_expansions": 8}, "spatial_expansions is 8; allowed is a list"),
        ("scheduler/scheduler_config.json", {"use_dynamic_shifting": True}, "allowed is false"),
        ("scheduler/scheduler_config.json", {"shift": "x"}, "shift is 'x'; allowed is a number above 0"),
        ("model_index.json", {"force_zeros_for_empty_prompt": 1}, "is 1; allowed is true or false"),
        ("model_index.json", {"vae": ["diffusers", "AutoencoderKL"]}, "vae is a AutoencoderKL; allowed"),
    ],
)
def test_config_that_cannot_be(copied: Path, file: str, values: dict[str, object], message: str) -> None:
    references.edit_json(copied / file, **values)
    with pytest.raises(Refused, match=message):
        rules_of(copied)


def test_a_vae_of_other_sizes_is_warned_of(copied: Path, caplog: pytest.LogCaptureFixture) -> None:
    references.edit_json(copied / "vae/config.json", spatial_expansions=[2, 2, 1])
    with caplog.at_level(logging.WARNING):
        rules_of(copied)
    assert "the VAE makes 4 pixels per latent, not 8" in caplog.text
