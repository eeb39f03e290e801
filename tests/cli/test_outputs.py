"""Commands about outputs; what they do is tested with `vidgen_dist.maintenance`."""

from __future__ import annotations

from pathlib import Path

from tests.commands import Vidgen


def test_status_of_what_is_no_output(vidgen: Vidgen, tmp_path: Path) -> None:
    ran = vidgen("status", tmp_path)
    assert ran.status == 2
    assert "no run.yaml" in ran.err
