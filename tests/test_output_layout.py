"""The names in an output are those of every earlier release, and stand in one module."""

from __future__ import annotations

import ast
from pathlib import Path

import vidgen_dist
from vidgen_dist import output_layout

PACKAGE = Path(vidgen_dist.__file__).parent


def test_names_stay() -> None:
    names = {name: value for name, value in vars(output_layout).items() if name.isupper()}
    assert names == {
        "RUN_FILE": "run.yaml",
        "STATUS_FILE": "status.json",
        "LEASE_FILE": ".lease.json",
        "LEASE_LOCK": ".lease.lock",
        "CONTACT_SHEET": "contact-sheet.png",
        "VIDEOS_FOLDER": "videos",
        "LEDGER_FOLDER": "ledger",
        "RESUME_STATES_FOLDER": "scratch",
        "MANIFEST_FOLDER": "manifest",
        "LOGS_FOLDER": "logs",
        "REPORT_FOLDER": "report",
    }


def test_no_other_module_spells_them() -> None:
    # Other things than the folders are called "videos", "ledger" and "logs".
    names = {"run.yaml", "status.json", ".lease.json", ".lease.lock", "contact-sheet.png", "scratch"}
    spelt = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in names
    }
    assert spelt == {"output_layout.py"}
