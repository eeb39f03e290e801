"""`vidgen report`: from an output to a folder of pages."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from vidgen_dist import ledger
from vidgen_dist.errors import Refused
from vidgen_dist.ledger import LedgerState, count_rows
from vidgen_dist.maintenance.report import COPY, ROWS, VIDEO_SIZE, VIDEOS, charts
from vidgen_dist.maintenance.report.cards import Card, make_card
from vidgen_dist.maintenance.report.folder import claim, publish, remove_others
from vidgen_dist.maintenance.report.pages import INDEX, Failure, Overview, Shown, Tile, render_pages
from vidgen_dist.maintenance.report.previews import Preview, PreviewMaker, PreviewPolicy, find_room
from vidgen_dist.maintenance.report.prompts import find_prompts
from vidgen_dist.maintenance.report.sample import Group
from vidgen_dist.maintenance.report.survey import FAILED_RANK, Survey, survey_ledger
from vidgen_dist.maintenance.report.texts import count, duration, file_size
from vidgen_dist.maintenance.status import open_output, reopen_manifest
from vidgen_dist.manifest import Manifest
from vidgen_dist.output_layout import (
    LEDGER_FOLDER,
    LOGS_FOLDER,
    REPORT_FOLDER,
    RESUME_STATES_FOLDER,
    VIDEOS_FOLDER,
)
from vidgen_dist.provenance import shown_model
from vidgen_dist.quality import BLACK_LUMA, BLOWN_OUT_CLIPPED, FROZEN_MOTION, NOISE
from vidgen_dist.spec import RunSpec, parse_bytes
from vidgen_dist.storage.folder import Storage, open_writable
from vidgen_dist.storage.uris import redact

_CLASSES, _EXAMPLES = 8, 3
"""Error classes with examples, and examples of each."""

_FIGURES = {
    "mean_luma": ("Brightness", "mean luma, from 0 to 1", {"black": BLACK_LUMA}),
    "motion": ("Motion", "mean change from frame to frame", {"frozen": FROZEN_MOTION}),
    "clipped": ("Clipped pixels", "share that is black or white", {"blown-out": BLOWN_OUT_CLIPPED}),
    "noisiness": ("Noisiness", "from 0 to 1", {"noise": NOISE}),
}
"""Column -> title of its chart, a remark, and the limits of flags."""


@dataclass(frozen=True)
class ReportPolicy:
    """How a report is divided.

    Args:
        page_rows: Rows of a page.
        bars: Bars of a chart, at most.
        differences: Rows of two outputs whose worst frame's difference is shown, at most: their videos are
            read once more.
        previews: How posters and videos are made.
    """

    page_rows: int = 48
    bars: int = 60
    differences: int = 100
    previews: PreviewPolicy = PreviewPolicy()


@dataclass(frozen=True)
class Report:
    """A report that was written.

    Args:
        index: URI of its first page.
        rows: Rows that it shows.
        all_rows: Rows that the ledger has.
        posters: Rows with a poster.
        videos: Rows with a video that plays.
        notes: Id of a row whose video is done but not shown, and why.
        why_no_prompts: Why there are no prompts; empty if there are.
    """

    index: str
    rows: int
    all_rows: int
    posters: int
    videos: int
    notes: Sequence[tuple[str, str]]
    why_no_prompts: str


def write_report(
    uri: str,
    folder: str | None = None,
    *,
    rows: int = ROWS,
    videos: str = COPY,
    video_size: str = VIDEO_SIZE,
    manifest: str | None = None,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
    policy: ReportPolicy = ReportPolicy(),
) -> Report:
    """Write a report of an output, or replace one.

    Args:
        uri: Output of a run, which may go on.
        folder: An empty folder, or one with a report; by default `report/` in the output.
        rows: How many rows to show.
        videos: `copy`; `link` to refer to the output's own; or `none`.
        video_size: Size of all videos that are copied, at most.
        manifest: Where the run's manifest is now, if it was moved.
        progress: Called with the number of videos whose previews are made, and of all.
        policy: How it is divided.

    Raises:
        Refused: There is no run's output; an argument is not allowed; a manifest that was given cannot be
            read; something else is in the folder; or a storage failed.
    """
    output, spec = open_output(uri)
    place = open_writable(folder or output.uri(REPORT_FOLDER))
    room = check_report(output, place, videos, video_size)
    try:
        opened, why_no_prompts = find_manifest(spec, manifest)
        maker = PreviewMaker(output, place, spec.output.format, videos, policy.previews)
        claim(place)
        state = ledger.read_ledger(output)
        survey = survey_ledger(output, state, rows)
        cards = _make_cards(survey, spec, opened, maker, room, progress)
        overview = _overview(output, spec, state, opened, survey, cards, why_no_prompts, policy)
        written = publish(place, render_pages(overview, cards, policy.page_rows))
        remove_others(place, written.union(*(card.preview.files for card in cards)))
    except OSError as error:
        raise Refused(str(error)) from None
    return Report(
        index=place.uri(INDEX),
        rows=len(cards),
        all_rows=survey.rows,
        posters=sum(card.preview.poster is not None for card in cards),
        videos=sum(card.preview.video is not None for card in cards),
        notes=[(card.id, card.preview.note) for card in cards if card.preview.note],
        why_no_prompts=why_no_prompts,
    )


def check_report(output: Storage, place: Storage, videos: str, video_size: str) -> int:
    """What must hold for a report of an output.

    Args:
        output: The output.
        place: The report's folder.
        videos, video_size: As for `write_report`.

    Returns:
        Bytes of all videos that are copied, at most.

    Raises:
        Refused: It does not.
    """
    if videos not in VIDEOS:
        raise Refused(f"--videos: {videos!r} is not allowed; allowed: {', '.join(VIDEOS)}")
    try:
        room = parse_bytes(video_size)
    except ValueError as error:
        raise Refused(f"--video-size: {error}") from None
    if place.root.startswith("hf://"):
        raise Refused(
            f"{redact(place.root)}: the Hub makes a commit for each file; write to a folder, and upload it "
            "with `hf upload`"
        )
    for name in (LEDGER_FOLDER, LOGS_FOLDER, RESUME_STATES_FOLDER, VIDEOS_FOLDER):
        if f"{place.root.rstrip('/')}/".startswith(f"{output.uri(name)}/"):
            raise Refused(f"{redact(place.root)}: is in the output's {name}/; give a folder elsewhere")
    return room


def find_manifest(spec: RunSpec, uri: str | None) -> tuple[Manifest | None, str]:
    """The run's manifest, if it can be read, and why it cannot.

    Raises:
        Refused: It cannot, and its place was given.
    """
    try:
        return reopen_manifest(spec, uri), ""
    except Refused as error:
        if uri is not None:
            raise
        return None, str(error)


def _make_cards(
    survey: Survey,
    spec: RunSpec,
    manifest: Manifest | None,
    maker: PreviewMaker,
    room: int,
    progress: Callable[[int, int], None],
) -> list[Card]:
    rows = _in_order(survey.sample)
    default = spec.sampling.get("prompt")
    ids = [row["id"] for row in rows]
    prompts = {} if manifest is None else find_prompts(manifest, ids, default)
    done = [row for row in rows if row["status"] == ledger.DONE]
    previews: list[Preview] = []
    for preview in maker.make(done, find_room(map(maker.size, done), room)):
        previews.append(preview)
        progress(len(previews), len(done))
    left = iter(previews)
    return [
        make_card(
            number,
            row,
            prompts.get(row["id"]),
            next(left) if row["status"] == ledger.DONE else Preview(),
        )
        for number, row in enumerate(rows)
    ]


def _in_order(sample: Mapping[Group, Sequence[Mapping[str, Any]]]) -> list[Mapping[str, Any]]:
    """The rows as the gallery has them: what went wrong first, of each kind in the order of time."""
    return [
        row
        for group in sorted(sample)
        for row in sorted(sample[group], key=lambda row: (row["finished_at"], row["id"]))
    ]


def _overview(
    output: Storage,
    spec: RunSpec,
    state: LedgerState,
    manifest: Manifest | None,
    survey: Survey,
    cards: Sequence[Card],
    why_no_prompts: str,
    policy: ReportPolicy,
) -> Overview:
    total, pending = None, None
    if manifest is not None:
        counts = count_rows(state, manifest.num_rows, manifest.id_arrays())
        total, pending = counts.total, counts.pending
    return Overview(
        title=name_of(output),
        about=_about(spec, state, survey),
        tiles=_tiles(survey, total, pending),
        charts=_charts(survey, policy.bars),
        failures=_failures(survey, cards),
        more_failures=_more_failures(survey),
        flags=[(name, count(videos, "video")) for name, videos in survey.flags.most_common()],
        sample=_about_sample(survey, len(cards), why_no_prompts),
    )


def name_of(output: Storage) -> str:
    """What people call an output."""
    return output.root.rstrip("/").rpartition("/")[2] or redact(output.root)


def _about(spec: RunSpec, state: LedgerState, survey: Survey) -> list[str]:
    rows = itertools.chain.from_iterable(survey.sample.values())
    return describe(spec, rows, state.newest)


def describe(spec: RunSpec, rows: Iterable[Mapping[str, Any]], newest: int) -> list[str]:
    """What an output is: model, task, when.

    Args:
        spec: Its run.
        rows: Some entries of its ledger.
        newest: When the newest entry was made, in microseconds since 1970; 0 without any.
    """
    models = ((row["model"], row["revision"]) for row in rows if row["model"])
    about = [shown_model(*next(models, (spec.model.id, spec.model.revision)))]
    if spec.model.task:
        about.append(spec.model.task)
    if newest:
        about.append(f"as of {datetime.fromtimestamp(newest / 1e6, UTC):%Y-%m-%d %H:%M} UTC")
    return about


def _tiles(survey: Survey, total: int | None, pending: int | None) -> list[Tile]:
    failed = survey.failed + survey.lost
    tiles = [
        Tile("videos", f"{survey.videos:,}", "" if total is None else f"of {count(total, 'row')}"),
        Tile(
            "failed",
            f"{failed:,}",
            f"{survey.lost:,} of them lost" if survey.lost else share(failed, total or survey.rows, "rows"),
            "bad" if failed else "plain",
        ),
        Tile(
            "flagged",
            f"{survey.flagged:,}",
            share(survey.flagged, survey.videos, "videos"),
            "flag" if survey.flagged else "plain",
        ),
    ]
    if pending:
        tiles.insert(2, Tile("pending", f"{pending:,}", share(pending, total or survey.rows, "rows")))
    if survey.videos:
        tiles.append(Tile("footage", duration(survey.footage), file_size(survey.bytes)))
    if survey.render_seconds.count:
        median = duration(survey.render_seconds.quantile(0.5))
        tiles.append(Tile("rendering", duration(survey.render_seconds.seconds), f"{median} a video"))
    return tiles


def share(part: int, whole: int, of: str) -> str:
    """A part of a whole in per cent; empty if there is none."""
    if not part or not whole:
        return ""
    return f"{part / whole:.1%} of the {of}" if part / whole >= 0.001 else f"less than 0.1% of the {of}"


def _charts(survey: Survey, bars: int) -> dict[str, list[Shown]]:
    found: dict[str, list[Shown]] = {"time": [], "failures": [], "quality": []}
    if survey.videos:
        edges, counts = survey.done_at.series(bars)
        chart = charts.throughput_chart("throughput", edges, counts)
        found["time"].append(Shown("Throughput", chart, _from_to(*edges[[0, -1]].tolist())))
    seconds = {
        stage: charts.StageSeconds(
            each.quantile(0.1), each.quantile(0.5), each.quantile(0.9),
            each.seconds / (survey.render_seconds.seconds or 1),
        )
        for stage, each in survey.stages.items()
        if each.count
    }  # fmt: skip
    if seconds:
        note = "median, and from the 10th to the 90th percentile"
        found["time"].append(Shown("Seconds per stage", charts.stages_chart("stages", seconds), note))
    if survey.failures:
        chart = charts.failures_chart("failures", survey.failures)
        found["failures"].append(Shown("Rows by error class", chart))
    for name, (title, note, limits) in _FIGURES.items():
        if survey.figures[name].count:
            edges, counts = survey.figures[name].histogram(bars)
            chart = charts.figure_chart(f"figure-{name.replace('_', '-')}", title, edges, counts, limits)
            found["quality"].append(Shown(title, chart, note))
    return found


def _from_to(start: int, end: int) -> str:
    """A span of time, given in microseconds since 1970."""
    first, last = (datetime.fromtimestamp(time / 1e6, UTC) for time in (start, end))
    clock = "%H:%M:%S" if end - start < 3600e6 else "%H:%M"
    until = "" if first.date() == last.date() else f"{last:%Y-%m-%d} "
    return f"{first:%Y-%m-%d} {first:{clock}} to {until}{last:{clock}} UTC"


def _failures(survey: Survey, cards: Sequence[Card]) -> list[Failure]:
    by_class: dict[str, list[Card]] = {}
    for card in cards:
        if card.error is not None:
            by_class.setdefault(card.error[0], []).append(card)
    return [
        Failure(name, count(rows, "row"), by_class.get(name, [])[:_EXAMPLES])
        for name, rows in itertools.islice(survey.failures.items(), _CLASSES)
    ]


def _more_failures(survey: Survey) -> str:
    others = list(survey.failures.values())[_CLASSES:]
    if not others:
        return ""
    return (
        f"{count(sum(others), 'row')} of {len(others):,} other {'class' if len(others) == 1 else 'classes'}."
    )


def _about_sample(survey: Survey, shown: int, why_no_prompts: str) -> str:
    if shown == survey.rows:
        text = f"{'All ' if shown > 1 else ''}{count(shown, 'row')}"
    else:
        wrong = sum(len(rows) for group, rows in survey.sample.items() if group.rank <= FAILED_RANK + 1)
        text = (
            f"{shown:,} of {count(survey.rows, 'row')}: {wrong:,} that failed or have a flag, and "
            f"{shown - wrong:,} others, chosen by chance"
        )
    without = " Prompts are not shown: the manifest could not be read." if why_no_prompts else ""
    return f"{text}.{without}"
