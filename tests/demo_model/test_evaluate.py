"""Counting, with a model that draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.demo_model import evaluate as evaluation
from tests.demo_model.clips import Clip, all_clips, draw, held_out_clips
from tests.demo_model.evaluate import evaluate, table
from tests.demo_model.measure import ATTRIBUTES
from vidgen_dist import RenderRequest
from vidgen_dist.demo import SAMPLING

BY_PROMPT = {clip.prompt: clip for clip in all_clips()}


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[RenderRequest]:
    """What is asked of a model that draws circles on white, but else what it is asked for."""
    asked: list[RenderRequest] = []

    def render(request: RenderRequest) -> np.ndarray:
        asked.append(request)
        clip = BY_PROMPT[str(request.prompt)]
        wrong = Clip(clip.colour, "circle", clip.motion, "white")
        return draw(wrong, np.random.default_rng(request.seed))

    monkeypatch.setattr(evaluation, "load_pipeline", lambda _: render)
    return asked


@pytest.mark.usefixtures("requests")
def test_what_is_right_is_counted() -> None:
    clips = [
        Clip("red", "circle", "grows", "white"),
        Clip("red", "circle", "moves up", "blue"),
        Clip("blue", "cross", "moves up", "white"),
        Clip("green", "square", "grows", "black"),
    ]
    results = evaluate("model", clips)
    assert [tuple(result.right[name] for name in ATTRIBUTES) for result in results] == [
        (True, True, True, True),
        (False, True, True, True),
        (True, True, False, True),
        (False, True, False, True),
    ]
    lines = table(results).splitlines()
    assert lines[0] == "| prompts | clips | ground | colour | shape | motion | all four |"
    assert lines[2] == "| all | 4 | 50.0% | 100.0% | 50.0% | 100.0% | 25.0% |"
    assert "| moves left | 0 |  |  |  |  |  |" in lines
    assert "| circle | 2 | 50.0% | 100.0% | 100.0% | 100.0% | 50.0% |" in lines
    assert results[1].miss == {
        "prompt": "a red circle moves up on a blue ground",
        "shown": {"ground": "white", "colour": "red", "shape": "circle", "motion": "moves up"},
    }


def test_clips_are_rendered_as_the_demo_does(requests: list[RenderRequest]) -> None:
    clips = held_out_clips(3)
    results = evaluate("model", clips)
    expected = [RenderRequest(prompt=c.prompt, seed=k, **SAMPLING) for k, c in enumerate(clips, start=1)]
    assert requests == expected
    assert results[0].frames.dtype == np.uint8


def test_the_command(
    requests: list[RenderRequest],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sheet, misses = tmp_path / "sheet.png", tmp_path / "misses.jsonl"
    arguments = ["model", "--count", "3", "--processes", "1", "--steps", "7", "--guidance", "2.5"]
    monkeypatch.setattr("sys.argv", ["evaluate", *arguments, "--sheet", str(sheet), "--misses", str(misses)])
    evaluation.main()
    assert capsys.readouterr().out.startswith("3 prompts, 7 steps, guidance 2.5\n\n| prompts |")
    assert {(r.num_inference_steps, r.guidance_scale) for r in requests} == {(7, 2.5)}
    assert Image.open(sheet).width > 5 * 96
    assert 1 <= len(misses.read_text().splitlines()) <= 3
