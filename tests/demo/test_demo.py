"""Where the demo's checkpoint is kept. The demo itself is a run like any other."""

from __future__ import annotations

from pathlib import Path

import pytest

from vidgen_dist.demo import checkpoint_path
from vidgen_dist.errors import Refused


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    cache.write_text("a file, no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    with pytest.raises(Refused, match=r"cache/vidgen/.*XDG_CACHE_HOME"):
        checkpoint_path()
