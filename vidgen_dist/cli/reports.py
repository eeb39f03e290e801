"""`vidgen report`: an output, or two side by side, as web pages."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from vidgen_dist.cli.terminal import counted, print_error, print_next, progress_bar
from vidgen_dist.errors import shortened
from vidgen_dist.maintenance.report import COPY, ROWS, VIDEO_SIZE, VIDEOS

if TYPE_CHECKING:
    from vidgen_dist.maintenance.report.writing import Report

_SHOWN_NOTES = 10


def report(
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="Output of a run, which may go on.")],
    other: Annotated[
        str | None,
        typer.Argument(
            metavar="[OTHER]",
            help="Output of another run of the same rows, to see both side by side.",
            show_default=False,
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help="Where to write: an empty folder, or one with a report.",
            show_default="OUTPUT/report or OUTPUT/report-with-OTHER",
        ),
    ] = None,
    rows: Annotated[
        int,
        typer.Option(
            min=1, max=100_000, help="Rows to show: failed and flagged ones first; of two outputs by chance."
        ),
    ] = ROWS,
    videos: Annotated[
        str,
        typer.Option(
            metavar="|".join(VIDEOS),
            help="Copy the videos of these rows, refer to the output's own, or show posters alone.",
        ),
    ] = COPY,
    video_size: Annotated[
        str, typer.Option(help="Size of all videos that are copied, at most.")
    ] = VIDEO_SIZE,
    manifest: Annotated[str | None, typer.Option(help="Where the run's manifest is now.")] = None,
) -> None:
    """Write web pages of an output, or of two side by side: gallery, figures, failures. They need no server.

    Examples:
        vidgen report out
        vidgen report s3://bucket/videos --to s3://bucket/report --rows 500
        vidgen report out --videos none           # posters alone
        vidgen report out-bf16 out-fp32           # what `vidgen compare` finds, to look at
    """
    from vidgen_dist.maintenance.report.writing import write_report
    from vidgen_dist.maintenance.report.writing_pairs import write_pair_report
    from vidgen_dist.storage.uris import redact

    write: Callable[..., Report] = functools.partial(write_report, output)
    if other is not None:
        write = functools.partial(write_pair_report, output, other)
    with progress_bar("videos" if other is None else "rows") as progress:
        made = write(
            to, rows=rows, videos=videos, video_size=video_size, manifest=manifest, progress=progress
        )
    _print_report(made)
    print_next(f"open {redact(made.index)} in a browser")


def _print_report(made: Report) -> None:
    """Print where the report is, what it shows, and what it could not show."""
    from vidgen_dist.storage.uris import redact

    shown = f"{made.rows:,} of {counted(made.all_rows, 'row')}"
    print(
        f"{redact(made.index)}: {shown}, {counted(made.posters, 'poster')}, {counted(made.videos, 'video')}"
    )
    if made.why_no_prompts:
        print_error(f"without prompts: {made.why_no_prompts}; if the manifest was moved, give --manifest")
    for name, note in made.notes[:_SHOWN_NOTES]:
        print_error(f"id {shortened(name)!r}: {note}")
    if len(made.notes) > _SHOWN_NOTES:
        print_error(f"and {len(made.notes) - _SHOWN_NOTES:,} more, whose cards say so")
