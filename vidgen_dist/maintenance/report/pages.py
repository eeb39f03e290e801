"""The pages of a report, from templates. Prompts, ids and messages are strangers' texts: all are escaped."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import jinja2

from vidgen_dist.maintenance.report.cards import Card
from vidgen_dist.maintenance.report.charts import Chart
from vidgen_dist.maintenance.report.pairs import KINDS, Difference, Pair
from vidgen_dist.package import VERSION
from vidgen_dist.quality import FLAGS

PAGES_FOLDER = "pages"
INDEX = "index.html"

POLICY = (
    "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'self'; script-src 'self'; "
    "base-uri 'none'; form-action 'none'"
)
"""The pages' Content-Security-Policy: only files of the report are loaded, and no code in a page runs."""

ASSETS = ("report.css", "report.js", "icon.svg")

_SORTS = (
    ("given", "problems first"),
    ("-time", "newest"),
    ("time", "oldest"),
    ("-seconds", "slowest"),
    ("seconds", "fastest"),
    ("-motion", "most motion"),
    ("motion", "least motion"),
    ("-brightness", "brightest"),
    ("brightness", "darkest"),
    ("-noisiness", "noisiest"),
    ("id", "id"),
)
"""Orders of the gallery, as the script knows them: a key of the catalogue's `sorts`, falling with a minus."""

_PAIR_SORTS = (
    ("given", "worst first"),
    ("psnr", "lowest PSNR"),
    ("-psnr", "highest PSNR"),
    ("ssim", "lowest SSIM"),
    ("-ssim", "highest SSIM"),
    ("-motion", "motion differs most"),
    ("first", "differ earliest"),
    ("-first", "differ latest"),
    ("id", "id"),
)

_MOST = 1e6
"""What an infinite figure is sorted as."""

# What HTML cannot hold, and what changes the direction of the text that follows.
_UNPRINTABLE = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


@dataclass(frozen=True)
class Shown:
    """A chart with its title.

    Args:
        title: What it is of.
        chart: The chart.
        note: A remark; empty for none.
    """

    title: str
    chart: Chart
    note: str = ""


@dataclass(frozen=True)
class Tile:
    """A number of the summary.

    Args:
        name: What it counts.
        value: The number, with its unit.
        note: A remark; empty for none.
        kind: `plain`, `bad` or `flag`.
    """

    name: str
    value: str
    note: str = ""
    kind: str = "plain"


@dataclass(frozen=True)
class Failure:
    """The failures of an error class.

    Args:
        name: The class.
        rows: How many there are, as a text.
        examples: Cards of some of them.
    """

    name: str
    rows: str
    examples: Sequence[Card]


@dataclass(frozen=True)
class Overview:
    """What the first page says of the whole output.

    Args:
        title: The output's name.
        about: What it is: model, task, when.
        tiles: The summary.
        charts: Section -> its charts.
        failures: The most frequent error classes.
        more_failures: What is said of the others; empty if there are none.
        flags: Flag and number of videos.
        sample: Which rows the gallery has.
    """

    title: str
    about: Sequence[str]
    tiles: Sequence[Tile]
    charts: Mapping[str, Sequence[Shown]]
    failures: Sequence[Failure]
    more_failures: str
    flags: Sequence[tuple[str, str]]
    sample: str


@dataclass(frozen=True)
class PairOverview:
    """What the first page says of two outputs.

    Args:
        title: Their names.
        about: For each a line: what it is.
        tiles: The summary.
        charts: Distributions of the figures.
        settings: Name of a setting that differs between the runs, its value in A and in B.
        sample: Which rows the pages have.
    """

    title: str
    about: Sequence[str]
    tiles: Sequence[Tile]
    charts: Sequence[Shown]
    settings: Sequence[Difference]
    sample: str


@dataclass(frozen=True)
class _Listing:
    """Pages that list rows.

    Args:
        template: The template, which extends `listing.html`.
        macro: What shows a row, in `parts.html`.
        values: From the links to all pages, what the template takes beside what all have.
        catalogue: What the script filters and sorts the rows by.
    """

    template: str
    macro: str
    values: Callable[[Sequence[str]], Mapping[str, Any]]
    catalogue: Mapping[str, Any]


def render_pages(overview: Overview, cards: Sequence[Card], page_size: int) -> Iterator[tuple[str, bytes]]:
    """The files of a report beside its posters and videos; the first page comes last.

    All but the first page have names with a digest of their content, so that a new report replaces an old one
    in the moment in which its first page is written.

    Yields:
        Path in the report, and content.
    """

    def values(links: Sequence[str]) -> dict[str, Any]:
        return {
            "title": overview.title,
            "heading": "Gallery",
            "about": [" · ".join(overview.about)],
            "tiles": overview.tiles,
            "charts": overview.charts,
            "failures": [_failure(failure, page_size, links) for failure in overview.failures],
            "more_failures": overview.more_failures,
            "flags": [{"name": name, "videos": videos} for name, videos in overview.flags],
            "sample": overview.sample,
            "statuses": sorted({card.status for card in cards}),
            "flag_names": _flag_names(cards),
            "orders": _SORTS,
            "empty": "The ledger has no rows yet.",
        }

    listing = _Listing("gallery.html", "card", values, _catalogue(cards, page_size))
    return _render(listing, cards, page_size)


def render_pair_pages(
    overview: PairOverview, pairs: Sequence[Pair], page_size: int
) -> Iterator[tuple[str, bytes]]:
    """The same of two outputs."""

    def values(_links: Sequence[str]) -> dict[str, Any]:
        there = {pair.kind for pair in pairs}
        return {
            "title": overview.title,
            "heading": "Side by side",
            "about": overview.about,
            "tiles": overview.tiles,
            "charts": overview.charts,
            "settings": overview.settings,
            "sample": overview.sample,
            "kinds": [kind for kind in KINDS if kind in there],
            "orders": _PAIR_SORTS,
            "empty": "The ledgers have no rows.",
        }

    listing = _Listing("pairs.html", "pair", values, _pair_catalogue(pairs, page_size))
    return _render(listing, pairs, page_size)


def _render(
    listing: _Listing, rows: Sequence[Card] | Sequence[Pair], page_size: int
) -> Iterator[tuple[str, bytes]]:
    pages = [rows[start : start + page_size] for start in range(0, max(1, len(rows)), page_size)]
    template = _environment().get_template(listing.template)
    show = getattr(_environment().get_template("parts.html").module, listing.macro)
    inner: dict[str, bytes] = {name: _asset(name) for name in ASSETS}
    inner["index.js"] = _script("index.js", listing.catalogue)
    for number, some in enumerate(pages, 1):
        name = f"{number:04d}.js"
        inner[name] = _script(name, [str(show(row, "")).strip() for row in some])

    def page(number: int, prefix: str) -> bytes:
        first = number == 1
        root = "" if first else "../"
        links = [f"{root}{INDEX}"] + [
            f"{f'{PAGES_FOLDER}/' if first else ''}{prefix}{other:04d}.html"
            for other in range(2, len(pages) + 1)
        ]
        text = template.render(
            policy=POLICY,
            version=VERSION,
            rows=pages[number - 1],
            show=show,
            page=number,
            links=links,
            numbers=list(_page_numbers(number, len(pages))),
            root=root,
            here=f"{PAGES_FOLDER}/{prefix}" if first else prefix,
            **listing.values(links),
        )
        return text.encode("utf-8", "replace")

    # Links among pages hold the digest, which is therefore made of a page without it.
    digest = hashlib.sha256(page(1, ""))
    for name, content in sorted(inner.items()):
        digest.update(name.encode() + hashlib.sha256(content).digest())
    prefix = f"{digest.hexdigest()[:16]}-"
    for name, content in inner.items():
        yield f"{PAGES_FOLDER}/{prefix}{name}", content
    for number in range(2, len(pages) + 1):
        yield f"{PAGES_FOLDER}/{prefix}{number:04d}.html", page(number, prefix)
    yield INDEX, page(1, prefix)


def _catalogue(cards: Sequence[Card], page_size: int) -> dict[str, Any]:
    """What the script filters and sorts by: a few bytes for each row."""
    names = _flag_names(cards)
    brightness, motion, _clipped, noisiness = (
        zip(*(card.figures for card in cards), strict=True) if cards else [()] * 4
    )
    return {
        "size": page_size,
        "status": "".join(card.status[0] for card in cards),
        "flagNames": names,
        "flags": [sum(1 << names.index(flag) for flag in card.flags) for card in cards],
        "sorts": {
            "time": [card.finished_at // 1000 for card in cards],
            "seconds": [None if card.seconds is None else round(card.seconds, 3) for card in cards],
            "brightness": [_short(value) for value in brightness],
            "motion": [_short(value) for value in motion],
            "noisiness": [_short(value) for value in noisiness],
            "id": _id_ranks(cards),
        },
    }


def _pair_catalogue(pairs: Sequence[Pair], page_size: int) -> dict[str, Any]:
    figures = {
        name: [_short(getattr(pair, name)) for pair in pairs] for name in ("psnr", "ssim", "motion", "first")
    }
    return {
        "size": page_size,
        # Kinds differ in their first letters.
        "status": "".join(pair.kind[0] for pair in pairs),
        "flagNames": [],
        "flags": [0] * len(pairs),
        "sorts": figures | {"id": _id_ranks(pairs)},
    }


def _id_ranks(rows: Sequence[Card] | Sequence[Pair]) -> list[int]:
    """Each row's place in the order of ids."""
    ranks = [0] * len(rows)
    for rank, number in enumerate(sorted(range(len(rows)), key=lambda number: rows[number].id)):
        ranks[number] = rank
    return ranks


def _short(value: float | None) -> float | None:
    # JSON has no infinity.
    return None if value is None else round(min(value, _MOST), 5)


def _flag_names(cards: Sequence[Card]) -> list[str]:
    found = {flag for card in cards for flag in card.flags}
    return [flag for flag in FLAGS if flag in found] + sorted(found - set(FLAGS))


def _failure(failure: Failure, page_size: int, links: Sequence[str]) -> dict[str, Any]:
    examples = []
    for card in failure.examples:
        page = card.number // page_size
        link = f"{links[page] if page else ''}#row-{card.number}"
        examples.append({"id": card.id, "message": card.error[1] if card.error else "", "link": link})
    return {"name": failure.name, "rows": failure.rows, "examples": examples}


def _page_numbers(page: int, pages: int) -> Iterator[int | None]:
    """The first, the last, and those around a page; None for a gap."""
    shown = sorted({1, pages, *range(max(1, page - 2), min(pages, page + 2) + 1)})
    before = 0
    for number in shown:
        if number == before + 2:
            yield before + 1
        elif number > before + 2:
            yield None
        yield number
        before = number


def _script(name: str, content: Any) -> bytes:
    """A file of data as a script, in ASCII: whoever serves it may say any encoding."""
    data = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return f"vidgenReport.give({json.dumps(name)},{data});\n".encode()


def _asset(name: str) -> bytes:
    return resources.files(__package__).joinpath("assets", name).read_bytes()


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: _UNPRINTABLE.sub("\ufffd", value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # A video that is linked to, elsewhere in the output, is relative to the report, too.
    environment.filters["under"] = lambda path, root: f"{root}{path}"
    return environment
