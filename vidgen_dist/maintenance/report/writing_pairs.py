"""`vidgen report A B`: from two outputs to a folder of pages that show them side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np

from vidgen_dist import ledger
from vidgen_dist.errors import Refused
from vidgen_dist.maintenance.comparison import ONLY_A, ONLY_B, Comparison, compare_outputs
from vidgen_dist.maintenance.report import COPY, NONE, ROWS, VIDEO_SIZE, charts
from vidgen_dist.maintenance.report.cards import Card, make_card
from vidgen_dist.maintenance.report.differences import DifferenceMaker
from vidgen_dist.maintenance.report.distributions import histogram_of
from vidgen_dist.maintenance.report.folder import claim, has_report, publish, remove_others
from vidgen_dist.maintenance.report.pages import INDEX, PairOverview, Shown, Tile, render_pair_pages
from vidgen_dist.maintenance.report.pairs import (
    DIFFERS,
    IDENTICAL,
    KINDS,
    NOT_COMPARABLE,
    ONLY_IN_ONE,
    DifferencePoster,
    Pair,
    kind_of,
    make_pair,
    shown_psnr,
    shown_ssim,
)
from vidgen_dist.maintenance.report.previews import Preview, PreviewMaker, find_room
from vidgen_dist.maintenance.report.prompts import find_prompts
from vidgen_dist.maintenance.report.run_settings import differing_settings
from vidgen_dist.maintenance.report.survey import entries_of
from vidgen_dist.maintenance.report.texts import count
from vidgen_dist.maintenance.report.writing import (
    Report,
    ReportPolicy,
    check_report,
    describe,
    find_manifest,
    name_of,
    share,
)
from vidgen_dist.maintenance.status import open_output
from vidgen_dist.manifest import Manifest
from vidgen_dist.output_layout import REPORT_FOLDER
from vidgen_dist.spec import RunSpec
from vidgen_dist.storage.folder import Storage, open_writable
from vidgen_dist.storage.names import safe_name
from vidgen_dist.storage.uris import redact

_DB, _SIMILARITY = 0.1, 0.0001
"""The least width of a bar of PSNR and of SSIM."""

_Entry = Mapping[str, Any]


@dataclass(frozen=True)
class _Side:
    """One of the two outputs.

    Args:
        name: `A` or `B`.
        output: The output.
        spec: Its run.
        manifest: Its manifest, if it can be read.
        why_no_prompts: Why it cannot; empty if it can.
    """

    name: str
    output: Storage
    spec: RunSpec
    manifest: Manifest | None
    why_no_prompts: str


@dataclass(frozen=True)
class _Row:
    """A row of the comparison with its entries in A and in B."""

    figures: Mapping[str, Any]
    entries: tuple[_Entry | None, _Entry | None]


def write_pair_report(
    a: str,
    b: str,
    folder: str | None = None,
    *,
    rows: int = ROWS,
    videos: str = COPY,
    video_size: str = VIDEO_SIZE,
    manifest: str | None = None,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
    policy: ReportPolicy = ReportPolicy(),
) -> Report:
    """Compare two outputs, and write a report that shows them side by side, or replace one.

    Args:
        a, b: Outputs of two runs, which may go on; rows are matched by id.
        folder: An empty folder, or one with a report; by default `report-with-NAME/` in A, where NAME is B's.
        rows: How many rows to compare and show, the same each time.
        videos: `copy` or `none`.
        video_size: Size of all videos that are copied, at most.
        manifest: Where the runs' manifest is now, if it was moved.
        progress: Called with what is done and all there is to do: a row is compared, and then shown.
        policy: How the report is divided.

    Raises:
        Refused: As by `write_report` and `compare_outputs`; or videos cannot be referred to.
    """
    opened = [open_output(uri) for uri in (a, b)]
    place = open_writable(folder or opened[0][0].uri(default_folder(opened[1][0])))
    room = _check(opened, place, videos, video_size)
    try:
        sides = [
            _Side(name, output, spec, *find_manifest(spec, manifest))
            for name, (output, spec) in zip("AB", opened, strict=True)
        ]
        has_report(place)
        found = compare_outputs(a, b, rows=rows, progress=lambda done, total: progress(done, 2 * total))
        claim(place)
        joined = _join(found, [side.output for side in sides])
        makers = [
            PreviewMaker(side.output, place, side.spec.output.format, videos, policy.previews)
            for side in sides
        ]
        posters = _differences(a, b, joined, place, policy)
        pairs = _make_pairs(joined, sides, makers, posters, room, progress)
        overview = _overview(found, joined, pairs, sides, policy.bars)
        # A pair is as large as two cards.
        written = publish(place, render_pair_pages(overview, pairs, max(1, policy.page_rows // 2)))
        remove_others(place, written.union(*(_files(pair) for pair in pairs)))
    except OSError as error:
        raise Refused(str(error)) from None
    return _report(place, found, pairs, sides)


def default_folder(b: Storage) -> str:
    """The folder in A of a report of A and B."""
    return f"{REPORT_FOLDER}-with-{safe_name(name_of(b))}"


def _check(opened: Sequence[tuple[Storage, RunSpec]], place: Storage, videos: str, video_size: str) -> int:
    """What must hold; returns the bytes of all videos that are copied, at most."""
    # A report lies in one of the outputs at most: it cannot refer to the videos of both.
    if videos not in (COPY, NONE):
        raise Refused(f"--videos: {videos!r} is not allowed for two outputs; allowed: {COPY}, {NONE}")
    (one, _), (other, _) = opened
    if one.root == other.root:
        raise Refused(
            f"{redact(one.root)}: A and B are the same output; for a report of one output, name it once"
        )
    for output, _ in opened:
        room = check_report(output, place, videos, video_size)
    return room


def _join(found: Comparison, outputs: Sequence[Storage]) -> list[_Row]:
    """The rows in the order of the pages: what differs most first."""
    rows = found.rows.to_pylist()
    # Sorting is stable: rows of a kind stay in the comparison's order.
    rows.sort(key=lambda row: KINDS.index(kind_of(row)))
    ids = {row["id"] for row in rows}
    one, other = (entries_of(output, ids) for output in outputs)
    return [
        _Row(
            row,
            (
                None if row["outcome"] == ONLY_B else one.get(row["id"]),
                None if row["outcome"] == ONLY_A else other.get(row["id"]),
            ),
        )
        for row in rows
    ]


def _differences(
    a: str, b: str, rows: Sequence[_Row], place: Storage, policy: ReportPolicy
) -> dict[str, DifferencePoster]:
    """Id -> a picture of its difference, for the worst rows."""
    jobs = []
    for row in rows[: policy.differences]:
        one, other = row.entries
        if kind_of(row.figures) == DIFFERS and one is not None and other is not None:
            jobs.append((row.figures, (one, other)))
    made = DifferenceMaker(a, b, place, policy.previews.poster_side).make(jobs)
    found = ((row["id"], poster) for (row, _), poster in zip(jobs, made, strict=True))
    return {name: poster for name, poster in found if poster is not None}


def _make_pairs(
    rows: Sequence[_Row],
    sides: Sequence[_Side],
    makers: Sequence[PreviewMaker],
    posters: Mapping[str, DifferencePoster],
    room: int,
    progress: Callable[[int, int], None],
) -> list[Pair]:
    previews = _previews(rows, makers, room)
    ids = [row.figures["id"] for row in rows]
    prompts = [
        {} if side.manifest is None else find_prompts(side.manifest, ids, side.spec.sampling.get("prompt"))
        for side in sides
    ]
    pairs = []
    for number, row in enumerate(rows):
        one, other = (
            _card(number, entry, prompts[side].get(row.figures["id"]), previews[side])
            for side, entry in enumerate(row.entries)
        )
        pairs.append(make_pair(number, row.figures, (one, other), posters.get(row.figures["id"])))
        progress(len(rows) + number + 1, 2 * len(rows))
    return pairs


def _previews(rows: Sequence[_Row], makers: Sequence[PreviewMaker], room: int) -> list[Iterator[Preview]]:
    """For each output the previews of the rows that it has done."""
    sizes = (
        sum(maker.size(entry) for maker, entry in zip(makers, row.entries, strict=True) if _is_done(entry))
        for row in rows
    )
    # Both videos of a row, or none of them.
    has_room = find_room(sizes, room)
    previews = []
    for side, maker in enumerate(makers):
        given = [(row.entries[side], fits) for row, fits in zip(rows, has_room, strict=True)]
        jobs = [(entry, fits) for entry, fits in given if _is_done(entry)]
        previews.append(maker.make([entry for entry, _ in jobs], [fits for _, fits in jobs]))
    return previews


def _is_done(entry: _Entry | None) -> TypeGuard[_Entry]:
    return entry is not None and entry["status"] == ledger.DONE


def _card(number: int, entry: _Entry | None, prompt: str | None, previews: Iterator[Preview]) -> Card | None:
    if entry is None:
        return None
    return make_card(number, entry, prompt, next(previews) if _is_done(entry) else Preview())


def _files(pair: Pair) -> list[str]:
    files = [file for card in pair.cards for file in card.preview.files]
    return files if pair.difference is None else [*files, pair.difference.poster]


def _overview(
    found: Comparison, rows: Sequence[_Row], pairs: Sequence[Pair], sides: Sequence[_Side], bars: int
) -> PairOverview:
    names = [name_of(side.output) for side in sides]
    return PairOverview(
        title=" and ".join(names),
        about=[
            f"{side.name}: {' · '.join([name, *_about(side.spec, [row.entries[place] for row in rows])])}"
            for place, (side, name) in enumerate(zip(sides, names, strict=True))
        ],
        tiles=_tiles(found, pairs),
        charts=_charts(pairs, bars),
        settings=differing_settings(*(side.spec for side in sides)),
        sample=_about_sample(found, sides),
    )


def _about(spec: RunSpec, entries: Sequence[_Entry | None]) -> list[str]:
    there = [entry for entry in entries if entry is not None]
    newest = max((int(entry["finished_at"].timestamp() * 1e6) for entry in there), default=0)
    return describe(spec, there, newest)


def _tiles(found: Comparison, pairs: Sequence[Pair]) -> list[Tile]:
    numbers = {kind: sum(pair.kind == kind for pair in pairs) for kind in KINDS}
    tiles = [
        Tile(
            kind,
            f"{numbers[kind]:,}",
            share(numbers[kind], len(pairs), "rows"),
            tone if numbers[kind] else "plain",
        )
        for kind, tone in (
            (IDENTICAL, "plain"),
            (DIFFERS, "flag"),
            (NOT_COMPARABLE, "bad"),
            (ONLY_IN_ONE, "bad"),
        )
    ]
    summary = found.summary()
    note = f"of all frames of {count(len(found.compared), 'row')}"
    tiles.append(Tile("PSNR in all", shown_psnr(summary["psnr"]), note))
    tiles.append(Tile("SSIM in all", shown_ssim(summary["ssim"]), note))
    return tiles


def _charts(pairs: Sequence[Pair], bars: int) -> list[Shown]:
    differ = [pair for pair in pairs if pair.kind == DIFFERS]
    shown = []
    for name, title, note, unit in (
        ("psnr", "PSNR", "in dB; higher is more alike", _DB),
        ("ssim", "SSIM", "at most 1; higher is more alike", _SIMILARITY),
    ):
        given = [getattr(pair, name) for pair in differ]
        values = np.array([value for value in given if value is not None and math.isfinite(value)])
        if len(values):
            edges, counts = histogram_of(values, bars, unit)
            shown.append(Shown(title, charts.figure_chart(name, title, edges, counts, what="rows"), note))
    return shown


def _about_sample(found: Comparison, sides: Sequence[_Side]) -> str:
    shown = len(found.rows)
    if shown == found.all_rows:
        text = f"{'All ' if shown > 1 else ''}{count(shown, 'row')}"
    else:
        text = f"{shown:,} of {count(found.all_rows, 'row')}, chosen by chance"
    without = [side.name for side in sides if side.manifest is None]
    if without:
        text += f". Prompts of {' and '.join(without)} are not shown: the manifest could not be read"
    return f"{text}."


def _report(place: Storage, found: Comparison, pairs: Sequence[Pair], sides: Sequence[_Side]) -> Report:
    cards = [
        (name, card) for pair in pairs for name, card in (("A", pair.a), ("B", pair.b)) if card is not None
    ]
    return Report(
        index=place.uri(INDEX),
        rows=len(pairs),
        all_rows=found.all_rows,
        posters=sum(card.preview.poster is not None for _, card in cards),
        videos=sum(card.preview.video is not None for _, card in cards),
        notes=[(card.id, f"{name}: {card.preview.note}") for name, card in cards if card.preview.note],
        why_no_prompts="; ".join(dict.fromkeys(side.why_no_prompts for side in sides if side.why_no_prompts)),
    )
