"""docs/architecture.md names files, folders and names that are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from docs.generate import ROOT
from tests.docs.pages import read

PAGE = "docs/architecture.md"
TEXT = read(PAGE)
INDEX = [line.strip("| ").split(" | ") for line in TEXT.split("\n## ")[1].splitlines() if "](../" in line]


def names_in(path: Path) -> set[str]:
    """The functions, classes, methods and constants that a module defines."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {
                f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)
            }
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
        if isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


def test_the_five_places_that_a_contributor_looks_for() -> None:
    asked = "\n".join(cells[0] for cells in INDEX)
    for what in ("claim rows", "ledger part written", "gang replaced", "a flag, or", "a VAE's rows"):
        assert what in asked


@pytest.mark.parametrize("cells", INDEX, ids=[cells[0] for cells in INDEX])
def test_names_are_in_the_files_that_are_named(cells: list[str]) -> None:
    files = re.findall(r"\]\(\.\./([\w/.]+)\)", cells[1])
    assert files
    defined = set().union(*(names_in(ROOT / file) for file in files))
    names = re.findall(r"`([\w.]+)`", cells[2] if len(cells) > 2 else "")
    assert set(names) <= defined, f"{PAGE}: {', '.join(set(names) - defined)}: not in {', '.join(files)}"


def test_paths_exist() -> None:
    for path in re.findall(r"`((?:\w+/)+(?:[\w.]+)?|[\w]+\.(?:py|json|toml))`", TEXT):
        places = (ROOT / path, ROOT / "vidgen_dist" / path)
        of_families = list((ROOT / "vidgen_dist" / "families").glob(f"*/{path}"))
        assert any(place.exists() for place in places) or of_families, f"{PAGE}: {path} does not exist"


def test_every_folder_and_module_is_told_of() -> None:
    for entry in (ROOT / "vidgen_dist").iterdir():
        if entry.name.startswith("__"):
            continue
        name = f"{entry.name}/" if entry.is_dir() else entry.name
        assert f"`{name}`" in TEXT, name
