"""`vidgen` commands of tests: the fixture `vidgen` runs one in this process; and what one imports."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class CommandResult(NamedTuple):
    """Exit status and what was printed."""

    status: int
    out: str
    err: str


Vidgen = Callable[..., CommandResult]
"""The type of the fixture: `vidgen("render", manifest, output)`."""


_SCRIPT = """
import sys
from vidgen_dist.cli import main
try:
    main()
finally:
    print([name for name in ("mindspore", "ray", "tokenizers") if name in sys.modules], file=sys.stderr)
"""


def heavy_imports(*arguments: str | Path) -> str:
    """Run a command in a process of its own, and list which of MindSpore, Ray and tokenizers it imports."""
    command = [sys.executable, "-c", _SCRIPT, *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return ran.stderr.splitlines()[-1]
