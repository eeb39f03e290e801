"""docs/add-a-family.md shows the toy family's files as they are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "add-a-family.md"
TOY = ROOT / "tests" / "toy_family"
FILES = {"python": "vidgen_toy/*.py", "toml": "pyproject.toml"}
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)

ELISION = "..."
"""On a line of its own it stands for any lines of the file."""


def lines_of(text: str) -> list[str]:
    """The lines that are not empty."""
    return [line for line in text.splitlines() if line.strip()]


def parts_of(block: str) -> list[list[str]]:
    """The lines between elisions, which are consecutive in the file."""
    parts: list[list[str]] = [[]]
    for line in lines_of(block):
        if line.strip() == ELISION:
            parts.append([])
        else:
            parts[-1].append(line)
    return parts


def stands_in(parts: Sequence[list[str]], lines: list[str]) -> bool:
    """Whether a file contains all parts, one after another."""
    at = 0
    for part in parts:
        places = range(at, len(lines) - len(part) + 1)
        found = next((place for place in places if lines[place : place + len(part)] == part), None)
        if found is None:
            return False
        at = found + len(part)
    return True


def test_the_document_has_blocks() -> None:
    assert {language for language, _ in BLOCKS} == FILES.keys()


@pytest.mark.parametrize(("language", "block"), BLOCKS, ids=range(len(BLOCKS)))
def test_a_block_stands_in_a_file_of_the_toy(language: str, block: str) -> None:
    texts = [path.read_text(encoding="utf-8") for path in TOY.glob(FILES[language])]
    assert any(stands_in(parts_of(block), lines_of(text)) for text in texts), block


def test_another_block_does_not() -> None:
    lines = ["a = 1", "b = 2", "c = 3"]
    assert stands_in(parts_of("a = 1\n\nb = 2\n"), lines)
    assert stands_in(parts_of("a = 1\n    ...\nc = 3\n"), lines)
    for block in ("a = 1\nc = 3", "b = 2\n...\na = 1", "a = 1\nb = 3"):
        assert not stands_in(parts_of(block), lines)
