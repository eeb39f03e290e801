"""Commands about a run's output: status, failures, compact, verify, export."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from vidgen_dist.cli.completion import offer
from vidgen_dist.cli.terminal import counted, print_error, print_next, print_table, progress_bar
from vidgen_dist.errors import INTERRUPTED, Refused, shortened
from vidgen_dist.output_layout import RUN_FILE
from vidgen_dist.spec import COMMAND_LINE

if TYPE_CHECKING:
    from vidgen_dist.maintenance.export_writer import ExportReport
    from vidgen_dist.maintenance.verification import Verification

_SHOWN_FAILURES = 100
_SHOWN_FINDINGS, _LISTED_FINDINGS = 20, 1000
"""How many of each kind are shown as text, and listed as JSON."""

_REPAIR = "`vidgen verify --repair` marks them, and the next `vidgen render` renders them again"


_KINDS = ("hf", "webdataset")
"""The kinds of data sets that `vidgen export` writes."""


def status(
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="Output of a run.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it again and again until the run has ended.")
    ] = False,
    interval: Annotated[
        float | None,
        typer.Option(min=0.1, metavar="SECONDS", help="For --watch; by default as often as the run reports."),
    ] = None,
) -> None:
    """Show a run's progress and state, from its output alone.

    With --watch on a terminal: a live view with what each gang does. Elsewhere: a line now and then. When the
    run has ended, its state follows, and the exit status says how it stands: 0 all rows done, 1 some are not,
    130 interrupted, or Ctrl-C, which ends only the watching.

    Examples:
        vidgen status s3://bucket/videos
        vidgen status out --watch
        vidgen status out --watch --interval 60 >> progress.log
        vidgen status out --json
    """
    from vidgen_dist.maintenance.status import read_status

    if watch and as_json:
        raise Refused(f"{COMMAND_LINE}: --watch and --json exclude each other")
    if watch:
        from vidgen_dist.cli.watching import show_until_the_end

        try:
            show_until_the_end(output, interval)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
    found = read_status(output)
    if as_json:
        print(json.dumps(found))
        return
    _print_status(found)
    if watch:
        raise typer.Exit(_exit_status(found))


def _exit_status(found: Mapping[str, Any]) -> int:
    """The exit status of a run that stands so."""
    if found["pending"] == found["failed"] == 0:
        return 0
    run = found["run"]
    return INTERRUPTED if run is not None and run["state"] == "interrupted" else 1


def _print_status(found: dict[str, Any]) -> None:
    from vidgen_dist.maintenance.status import COUNTED, describe_run

    found = dict(found)
    # What the latest run says is what everybody expects.
    if (counted_by := found.pop("counted")) != "run":
        found["rows are counted"] = COUNTED[counted_by]
    failures, pace, left = (found.pop(name) for name in ("failures", "videos_per_minute", "seconds_left"))
    run = found.pop("run")
    if pace is not None:
        found["pace"] = f"{pace:.1f} videos/min"
    if left is not None:
        found["time left"] = str(timedelta(seconds=round(left)))
    table = Table(show_header=False, box=None)
    for name, value in found.items():
        shown = f"{value:,}" if isinstance(value, int) else value
        table.add_row(name, "unknown" if value is None else escape(shown))
        if name == "failed":
            for error_class, count in failures.items():
                table.add_row("", f"{count:,} {escape(error_class)}")
    for name, value in describe_run(run) if run else ():
        table.add_row(name, escape(value))
    print_table(table)


def failures(
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="Output of a run.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
    export: Annotated[
        str | None, typer.Option(metavar="PARQUET", help="Write them to a file instead of printing.")
    ] = None,
) -> None:
    """List the rows that failed and are not done since: id, error, message, attempts, time.

    Examples:
        vidgen failures out
        vidgen failures out --json
        vidgen failures out --export bad.parquet
    """
    import pyarrow.parquet as pq

    from vidgen_dist.maintenance.status import read_failures
    from vidgen_dist.storage.folder import open_export
    from vidgen_dist.storage.uris import redact

    found = read_failures(output)
    if export is not None:
        place, name = open_export(export)
        try:
            with place.create(name) as file:
                pq.write_table(found, file)
        except OSError as error:
            raise Refused(f"--export: {error}") from None
        print(f"{redact(export)}: {counted(len(found), 'row')}")
        return
    if as_json:
        print(json.dumps(found.to_pylist(), default=datetime.isoformat))
        return
    if not len(found):
        print("no row has failed")
        return
    table = Table("id", "error", "message", "attempts", "when")
    for row in found.slice(max(0, len(found) - _SHOWN_FAILURES)).to_pylist():
        when = f"{row['finished_at']:%Y-%m-%d %H:%M:%S}Z"
        texts = (row["id"], row["error_class"] or "", row["error_message"] or "", str(row["attempts"]), when)
        table.add_row(*map(escape, texts))
    print_table(table)
    if len(found) > _SHOWN_FAILURES:
        print_error(f"the last {_SHOWN_FAILURES} of {len(found):,}; --json and --export have all")
    print_next(
        f"`vidgen render {quote(redact(output).rstrip('/'))}/{RUN_FILE} --retry failed` tries them again"
    )


def compact(
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="Output of a run, which may go on.")],
) -> None:
    """Merge a ledger's many small parts into few.

    Examples:
        vidgen compact s3://bucket/videos
    """
    from vidgen_dist.maintenance.status import compact_ledger

    done = compact_ledger(output)
    parts = "1 part is" if done.before == 1 else f"{done.before:,} parts are"
    print(f"{parts} now {done.after:,}; {done.entries:,} entries were moved")


def verify(
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="Output of a run, which may go on.")],
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every video: its SHA-256, and whether it decodes.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Have missing and torn videos rendered again by the next run.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare the ledger with the videos in storage.

    Exit status: 0 every video is there and whole, 1 some are missing or torn, 2 refused.

    Examples:
        vidgen verify out
        vidgen verify out --deep --json
        vidgen verify out --repair                # then `vidgen render` renders them again
    """
    from vidgen_dist.maintenance.verification import verify as compare
    from vidgen_dist.storage.uris import redact

    with progress_bar("folders") as progress:
        found = compare(
            output,
            deep=deep,
            repair=repair,
            limit=_LISTED_FINDINGS if as_json else _SHOWN_FINDINGS,
            print_line=print_error,
            progress=progress,
        )
    if as_json:
        print(json.dumps({**dataclasses.asdict(found), "whole": found.whole}))
    else:
        _print_verification(found)
        if found.ok:
            print_next(f"`vidgen export {quote(redact(output))} URI --to hf`, or `--to webdataset`")
    raise typer.Exit(0 if found.ok else 1)


def _print_verification(found: Verification) -> None:
    """Print counts, what is wrong by name, and what to do about it."""
    how = "read and decoded" if found.deep else "by size; --deep reads them"
    notes = {
        "videos": "that the ledger names",
        "whole": how,
        "missing": "",
        "torn": "",
        "orphaned": "without a ledger entry: a run has yet to write it, or was killed; harmless",
        "superseded": "frames of earlier renderings, which can be deleted",
        "temporary": "being written, or left by a killed run",
    }
    table = Table(show_header=False, box=None)
    for name, note in notes.items():
        count = getattr(found, name)
        if count or name in ("videos", "whole", "missing", "torn"):
            table.add_row(name, f"{count:,}", note)
    print_table(table)
    for finding in found.findings:
        whose = "" if finding.id is None else f" (id {shortened(finding.id)!r})"
        print(f"{finding.kind}: {finding.path}{whose}: {finding.message}")
    if found.missing + found.torn + found.orphaned > len(found.findings):
        print_error(f"the first {len(found.findings):,}; --json has up to {_LISTED_FINDINGS:,} of each kind")
    if found.run is not None:
        print_error(
            f"{found.run} holds this output, or held it when it was killed; "
            "files that it is writing now may be among these"
        )
    if found.lost:
        print(f"{found.lost:,} marked as lost: the next `vidgen render` renders them again")
    elif not found.ok:
        print_error(_REPAIR)


def export(
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="Output of a run.")],
    destination: Annotated[str, typer.Argument(metavar="URI", help="An empty folder.")],
    to: Annotated[
        str,
        typer.Option(
            metavar="|".join(_KINDS), autocompletion=offer(_KINDS), help="A videofolder, or tar shards."
        ),
    ],
    manifest: Annotated[str | None, typer.Option(help="Where the run's manifest is now.")] = None,
    shard_size: Annotated[str, typer.Option(help="Size of a tar shard, at most.")] = "1GB",
    shard_rows: Annotated[int, typer.Option(min=1, help="Rows of a tar shard, at most.")] = 10_000,
) -> None:
    """Write the rows that are done, with their videos, as a data set; continue one that was killed.

    Exit status: 0 all of them are written, 1 some videos are missing or torn and left out, 2 refused.

    Examples:
        vidgen export out dataset --to hf
        vidgen export s3://bucket/videos s3://bucket/shards --to webdataset --shard-size 500MB
    """
    from vidgen_dist.maintenance.export import export as write

    with progress_bar("rows") as progress:
        made = write(
            output,
            to,
            destination,
            manifest=manifest,
            shard_size=shard_size,
            shard_rows=shard_rows,
            limit=_SHOWN_FINDINGS,
            progress=progress,
        )
    _print_export(made, destination, to)
    raise typer.Exit(1 if made.missing else 0)


_OPEN = {
    "hf": 'datasets.load_dataset("videofolder", data_dir={})',
    "webdataset": "`webdataset.WebDataset` reads the shards in {}",
}
"""How each kind of data set is opened."""


def _print_export(made: ExportReport, destination: str, to: str) -> None:
    """Print what was written, what was left out, and why."""
    from vidgen_dist.storage.uris import redact

    unit = "shard" if to == "webdataset" else "file"
    written = f"{counted(made.videos, 'row')} in {counted(made.files, unit)}"
    print(f"{redact(destination)}: {written}, {made.kept:,} of them from before")
    left_out = (
        (made.failed, "failed"),
        (made.stale, "rendered with other settings: the next `vidgen render` renders them again"),
        (made.pending, "pending"),
        (made.missing, "missing or torn"),
    )
    for count, why in left_out:
        if count:
            print(f"left out: {count:,} {why}")
    if made.unsure:
        print_error(
            f"{made.unsure:,} may have been rendered with settings other than the run's; they could not be "
            f"compared: {made.why_unsure}"
        )
    for left in made.left:
        print_error(f"id {shortened(left.id)!r}: {left.message}")
    if made.missing:
        print_error(_REPAIR)
    print_next(_OPEN[to].format(repr(redact(destination))))
