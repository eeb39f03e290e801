"""Run files of `jobs/`: what `vidgen plan` makes of them, from configs alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.planner import published
from vidgen_dist import cli
from vidgen_dist.planner import checkpoints

JOBS = Path(__file__).parents[2] / "jobs"

EXPECTED: dict[str, tuple[str, dict[str, Any]]] = {
    "hunyuanvideo.yaml": (
        "hunyuan-video",
        {"frames": 61, "height": 320, "width": 512, "steps": 30, "guided": False, "tokens": 16 * 20 * 32},
    ),
    "ltx.yaml": (
        "ltx-0.9.0",
        {"frames": 161, "height": 480, "width": 704, "steps": 50, "guided": True, "tokens": 21 * 15 * 22},
    ),
    "mochi.yaml": (
        "mochi",
        # 84 frames are made 79.
        {"frames": 79, "height": 480, "width": 848, "steps": 64, "guided": True, "tokens": 14 * 30 * 53},
    ),
    "ltx-0.9.1-i2v.yaml": ("ltx-0.9.1", {"frames": 161, "encoded_frames": 1, "tokens": 21 * 15 * 22}),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_run_file_asks_for_what_the_guide_asks_for(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, video = EXPECTED[name]
    opened = published.checkpoint(tmp_path, model)
    monkeypatch.setattr(checkpoints, "checkpoint_of", lambda *_, **__: opened)
    monkeypatch.setattr(sys, "argv", ["vidgen", "plan", str(JOBS / name), "--json"])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    captured = capsys.readouterr()
    assert not exit_.value.code, captured.err
    plan = json.loads(captured.out)
    assert {key: plan["video"][key] for key in video} == video
    assert plan["chosen"]["fits"]
