"""`jobs/submit.py` as far as it goes without a cluster."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no-address", "jobs/cogvideox-2b.yaml"], "no-address"),
        (["http://127.0.0.1:1", "jobs/cogvideox-2b.yaml", "--set", "model.id"], "is not KEY=VALUE"),
        (["http://127.0.0.1:1", "jobs/cogvideox-2b.yaml", "--set", "seed={a: ["], "seed"),
    ],
)
def test_what_cannot_be_submitted_is_refused(arguments: list[str], said: str) -> None:
    command = [sys.executable, "-c", "import runpy; runpy.run_path('jobs/submit.py', run_name='__main__')"]
    ran = subprocess.run(
        [*command, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 2, ran.stderr
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr
