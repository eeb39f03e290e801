"""The picture of a run shows what the demo is, and is made of what a terminal gets."""

from __future__ import annotations

import html
import sys
from pathlib import Path

from docs.make_pictures import COMMANDS, PICTURE, at_the_end, in_terminal, picture
from vidgen_dist.demo import manifest_path
from vidgen_dist.manifest import open_manifest


def test_the_picture_shows_the_demo() -> None:
    drawn = PICTURE.read_text(encoding="utf-8")
    text = html.unescape(drawn).replace("\N{NO-BREAK SPACE}", " ")
    for shown in (*COMMANDS, *(row.id for row in open_manifest(str(manifest_path())).rows())):
        assert shown in text, f"{shown}: run `python -m docs.make_pictures`"
    assert len(drawn) < 40_000
    # Fonts from elsewhere would not be loaded in a page.
    assert "url(http" not in drawn


def test_a_picture_has_what_a_terminal_shows_at_the_end(tmp_path: Path) -> None:
    script = "import sys; print(sys.stdout.isatty()); print('half\\r\\x1b[2K\\x1b[32mwhole\\x1b[0m')"
    written = at_the_end(in_terminal([sys.executable, "-c", script], tmp_path))
    assert written == "True\n\x1b[2K\x1b[32mwhole\x1b[0m"
    drawn = picture([("a command", written)])
    assert "whole" in drawn
    assert "half" not in drawn
    assert "\x1b" not in drawn
