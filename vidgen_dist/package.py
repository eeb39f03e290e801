"""Which release this package is, and where it is imported from."""

from __future__ import annotations

from pathlib import Path

VERSION = "0.1.0"


def checkout() -> str | None:
    """The folder that this package is imported from; None if it is installed."""
    folder = Path(__file__).parents[1]
    return None if {"site-packages", "dist-packages"} & set(folder.parts) else str(folder)
