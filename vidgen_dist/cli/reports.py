"""`vidgen report`: an output as web pages."""

from __future__ import annotations

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
    folder: Annotated[
        str | None,
        typer.Argument(
            metavar="[URI]", help="An empty folder, or one with a report.", show_default="OUTPUT/report"
        ),
    ] = None,
    rows: Annotated[
        int, typer.Option(min=1, max=100_000, help="Rows to show: failed and flagged ones first.")
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
    """Write web pages of an output: a gallery, throughput, failures, quality. They need no server.

    Examples:
        vidgen report out
        vidgen report s3://bucket/videos s3://bucket/report --rows 500
        vidgen report out --videos none           # posters alone
    """
    from vidgen_dist.maintenance.report.writing import write_report
    from vidgen_dist.storage.uris import redact

    with progress_bar("videos") as progress:
        made = write_report(
            output,
            folder,
            rows=rows,
            videos=videos,
            video_size=video_size,
            manifest=manifest,
            progress=progress,
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
