"""Gangs of several ranks on a local Ray, with the fast fake engine: rows, deaths, hangs, refusals."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.runtime.conftest import FAKE_ENGINE, entries
from vidgen_dist.runtime import crew
from vidgen_dist.runtime.driver import RunResult, render
from vidgen_dist.spec import RunSpec

MakeSpec = Callable[..., RunSpec]
MakeManifest = Callable[..., str]


def run(spec: RunSpec) -> RunResult:
    return render(spec, Console(file=io.StringIO()), engine=FAKE_ENGINE)


@pytest.mark.usefixtures("local_ray")
def test_gang_of_two(make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path) -> None:
    signs = tmp_path / "signs"
    signs.mkdir()
    spec = make_spec(make_manifest(*[f"sign:{signs}"]*5), topology__ulysses=2)
    result = run(spec)
    print(result, sorted(p.name for p in signs.iterdir()))
    assert result.exit_status == 0
