"""Reads the pages of the documentation: blocks of code, links, headings."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from docs.generate import ROOT, pages

PAGES = [page.relative_to(ROOT).as_posix() for page in pages()]

_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^()\s]+)\)")


def read(page: str) -> str:
    """A page's text."""
    return (ROOT / page).read_text(encoding="utf-8")


def fenced(page: str, language: str) -> list[str]:
    """The fenced blocks of code in a language."""
    return [code for named, code in _FENCED.findall(read(page)) if named == language]


def commands(page: str) -> list[list[str]]:
    """The `vidgen` commands in blocks of code, as lists of arguments without `vidgen`."""
    text = _FENCED.sub(lambda found: re.sub("^", "    ", found[2], flags=re.MULTILINE), read(page))
    text = text.replace("\\\n", " ")
    lines = re.findall(r"^    (?:.* && )?vidgen (.*)$", text, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


def prose(page: str) -> str:
    """A page without its blocks of code."""
    text = _FENCED.sub("", read(page))
    return re.sub(r"(?<=\n\n)(?:    .*\n?)+", "", text)


def links(page: str) -> list[str]:
    """The targets of a page's links."""
    return _LINK.findall(prose(page))


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(path.relative_to(ROOT).as_posix()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
