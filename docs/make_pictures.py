"""Makes the picture of a run, `docs/run.svg`: what a terminal shows of real commands.

    python -m docs.make_pictures

The commands run in a pseudo-terminal, in a folder of their own, with the package that is installed.
"""

from __future__ import annotations

import errno
import io
import os
import pty
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

import vidgen_dist
from docs.generate import ROOT

PICTURE = ROOT / "docs" / "run.svg"
COMMANDS = ("vidgen demo", "vidgen status vidgen-demo")
COLUMNS = 96

_PACKAGE = Path(vidgen_dist.__file__).parent


def in_terminal(command: Sequence[str], folder: Path) -> str:
    """What a command writes to a terminal.

    Args:
        command: The command and its arguments.
        folder: The folder that it runs in.

    Raises:
        subprocess.CalledProcessError: It fails.
    """
    ours, its = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LINES": "40"}
    streams = {"stdin": its, "stdout": its, "stderr": its}
    with subprocess.Popen(command, cwd=folder, env=environment, **streams) as process:
        os.close(its)
        written = b"".join(iter(lambda: _read(ours), b""))
    os.close(ours)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, written)
    return written.decode()


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        # The other side of the terminal is closed.
        return b""


def at_the_end(written: str) -> str:
    """The text that remains: a progress bar goes back to the start of its line and writes it again."""
    lines = written.replace("\r\n", "\n").split("\n")
    return "\n".join(re.sub(r"^.*\r", "", line) for line in lines).rstrip("\n")


def picture(texts: Sequence[tuple[str, str]]) -> str:
    """A terminal as SVG, without fonts from elsewhere.

    Args:
        texts: Commands and what they wrote, with the escape codes of colours.
    """
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    for command, text in texts:
        console.print(Text.assemble(("$ ", "green"), (command, "bold")))
        console.print(Text.from_ansi(text))
    drawn = console.export_svg(title="vidgen", unique_id="run")
    return re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.DOTALL)


def main() -> None:
    """Run the commands and write the picture."""
    with tempfile.TemporaryDirectory() as folder:
        texts = []
        for command in COMMANDS:
            words = shlex.split(command)
            written = in_terminal([sys.executable, "-m", "vidgen_dist", *words[1:]], Path(folder))
            # The places of the machine that makes the picture are nobody's concern.
            shown = at_the_end(written).replace(folder, "/data").replace(f"{_PACKAGE.parent}/", "…/")
            texts.append((command, shown))
    PICTURE.write_text(picture(texts), encoding="utf-8")


if __name__ == "__main__":
    main()
