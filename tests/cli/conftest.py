"""Manifests and a checkpoint for commands."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vidgen_dist.cli import rendering
from vidgen_dist.spec import RunSpec

REFERENCES = Path(__file__).parents[1] / "references" / "cogvideox"


def write_manifest(path: Path, *rows: dict[str, Any]) -> Path:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_manifest(
        tmp_path / "m.parquet", {"id": "a", "prompt": "a fox"}, {"id": "b", "prompt": "a boat"}
    )


@pytest.fixture
def checkpoint() -> Path:
    return next(
        path for path in sorted(REFERENCES.glob("*/checkpoint")) if _class(path) == "CogVideoXPipeline"
    )


def _class(checkpoint: Path) -> str:
    return json.loads((checkpoint / "model_index.json").read_text())["_class_name"]


@pytest.fixture
def specs(monkeypatch: pytest.MonkeyPatch) -> list[RunSpec]:
    """The specs that `vidgen render` makes of its arguments; nothing is rendered."""
    made: list[RunSpec] = []

    def remember(spec: RunSpec, _policies: None) -> SimpleNamespace:
        made.append(spec)
        return SimpleNamespace(exit_status=0)

    monkeypatch.setattr(rendering, "run", remember)
    return made
