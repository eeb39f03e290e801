"""`vidgen` commands of tests: in this process, by the fixture `vidgen`, and in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from vidgen_dist.runtime.driver.policies import RunPolicies


class CommandResult(NamedTuple):
    """What a command leaves behind: exit status and what was printed."""

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


def run_apart(*arguments: str | Path) -> tuple[str, str]:
    """Run a command in a process of its own.

    Returns:
        What it prints, and a list of those of MindSpore, Ray and tokenizers that it imports.
    """
    command = [sys.executable, "-c", _SCRIPT, *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return ran.stdout, ran.stderr.splitlines()[-1]


def fake_vidgen(policies: RunPolicies | None = None) -> list[str]:
    """The beginning of the command line of a `vidgen` that renders with the fast fake engine.

    Args:
        policies: How patient it is, if not as usual.
    """
    command = [sys.executable, "-m", "tests.vidgen_with_fake_engine"]
    return command if policies is None else [*command, "--policies", json.dumps(asdict(policies))]
