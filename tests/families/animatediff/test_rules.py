"""What AnimateDiff takes from a row; how many frames the adapter allows."""

from __future__ import annotations

import dataclasses

import pytest

from tests.references import case
from vidgen_dist import RenderRequest, RequestError
from vidgen_dist.families.checkpoints import open_model_checkpoint
from vidgen_dist.families.common.tasks import Rules
from vidgen_dist.families.rules import load_rules


@pytest.fixture(scope="module")
def rules() -> Rules:
    return load_rules(open_model_checkpoint(case("pndm", "animatediff").model))


def test_defaults_are_the_pipelines(rules: Rules) -> None:
    resolved = rules.resolve(RenderRequest(prompt="a fox"))
    assert dataclasses.asdict(resolved) | {
        "negative_prompt": "",
        # The UNet's sample_size, times the VAE's pixels per latent.
        "height": 64,
        "width": 64,
        "num_frames": 16,
        "num_inference_steps": 50,
        "guidance_scale": 7.5,
        "eta": 0.0,
        "clip_skip": 0,
        "decode_chunk_size": 16,
        "fps": 8.0,
    } == dataclasses.asdict(resolved)
    assert rules.resolve(resolved) == resolved
    assert (rules.family, rules.tasks, rules.required) == ("AnimateDiff", ("text-to-video",), ("prompt",))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"height": 36}, "height: 36 is not allowed; a multiple of 8"),
        ({"width": 7}, "width: 7 is not allowed; a multiple of 8"),
        ({"num_frames": 17}, "num_frames: 17 is not allowed; up to 16, the motion adapter"),
        ({"clip_skip": 4}, "clip_skip: 4 is not allowed; up to 3, the layers"),
        ({"clip_skip": -1}, "clip_skip: -1 is not allowed; a whole number from 0"),
        ({"decode_chunk_size": 0}, "decode_chunk_size: 0 is not allowed; a whole number from 1"),
        ({"num_inference_steps": 1001}, "num_inference_steps: 1001 is not allowed"),
        ({"eta": 2}, "eta: 2 is not allowed; a number from 0 to 1"),
        ({"image": "a.png"}, "image: 'a.png' is not allowed; AnimateDiff text-to-video does not take it"),
        ({"max_sequence_length": 77}, "max_sequence_length: 77 is not allowed"),
        ({"prompt": None}, "prompt: None is not allowed"),
    ],
)
def test_what_is_refused(rules: Rules, fields: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=f"^{message}"):
        rules.resolve(RenderRequest(**{"prompt": "a fox", **fields}))
