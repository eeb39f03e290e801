"""A wide terminal."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """No line of a command is wrapped."""
    monkeypatch.setenv("COLUMNS", "160")
