"""Tokenizers of `tokenizers.tar.xz`, and what transformers makes of `prompts.py` with them."""

from __future__ import annotations

import hashlib
import json
import tarfile
from functools import cache
from pathlib import Path
from typing import Any

ARCHIVE = Path(__file__).parent / "tokenizers.tar.xz"
_RECORDS = ("case.json", "ids.json", "cut.json")


@cache
def _files() -> dict[str, dict[str, bytes]]:
    found: dict[str, dict[str, bytes]] = {}
    with tarfile.open(ARCHIVE) as archive:
        for member in archive:
            case, _, name = member.name.partition("/")
            content = archive.extractfile(member)
            assert content is not None
            found.setdefault(case, {})[name] = content.read()
    return found


def cases(saved: bool) -> list[str]:
    """Names of the cases: those that transformers 5 has saved, or all others."""
    return [name for name in sorted(_files()) if name.startswith("saved-") == saved]


def class_name(case: str) -> str:
    """A case's class, as `model_index.json` names it."""
    return str(record(case, "case")["class"])


def record(case: str, name: str) -> Any:
    """What is known of a case: `case`, `ids` or `cut`."""
    return json.loads(_files()[case][f"{name}.json"])


def write(case: str, folder: Path) -> None:
    """Write a case's folder."""
    folder.mkdir(parents=True)
    for name, data in _files()[case].items():
        if name not in _RECORDS:
            (folder / name).write_bytes(data)


def digest(value: Any) -> str:
    """As the script has it that made the archive."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def short(ids: list[int]) -> Any:
    """As the script keeps ids: many of them as their number and digest."""
    return ids if len(ids) <= 64 else [len(ids), digest(ids)]
