"""What every command has, and what a command loads before it does anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import vidgen_dist
from tests.commands import Vidgen, run_apart


def test_status_loads_neither_mindspore_nor_ray(vidgen: Vidgen, tmp_path: Path, manifest: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    run_file = (
        f"model: {{id: m, revision: r}}\nmanifest: {{uri: '{manifest}'}}\noutput: {{uri: '{output}'}}\n"
    )
    (output / "run.yaml").write_text(run_file)
    printed, imported = run_apart("status", output, "--json")
    found = json.loads(printed)
    assert {key: found[key] for key in ("total", "done", "failed", "pending")} == {
        "total": 2,
        "done": 0,
        "failed": 0,
        "pending": 2,
    }
    assert imported == "[]"
    manifest.unlink()
    assert json.loads(vidgen("status", output, "--json").out)["total"] is None


def test_module_is_the_command() -> None:
    command = [sys.executable, "-m", "vidgen_dist", "--help"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    for name in ("render", "status", "manifest", "demo"):
        assert name in ran.stdout


def test_version(vidgen: Vidgen) -> None:
    ran = vidgen("--version")
    assert (ran.status, ran.out.strip()) == (0, vidgen_dist.__version__)


def test_the_command_starts_without_numpy() -> None:
    code = "import sys, vidgen_dist.cli; print([m for m in ('numpy', 'pyarrow', 'ray') if m in sys.modules])"
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert ran.stdout.strip() == "[]"


def test_completing_loads_nothing_heavy() -> None:
    environment = {
        **os.environ,
        "_VIDGEN_COMPLETE": "complete_bash",
        "COMP_WORDS": "vidgen render m --dtype f",
        "COMP_CWORD": "4",
    }
    heavy = "[name for name in ('numpy', 'pyarrow', 'ray') if name in sys.modules]"
    code = (
        "import sys; sys.argv = ['vidgen']\nfrom vidgen_dist import cli\n"
        f"try:\n    cli.main()\nfinally:\n    print({heavy})"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
        check=False,
    )
    assert ran.stdout.split() == ["float32", "float16", "[]"]
