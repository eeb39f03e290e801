"""The `vidgen` command: arguments and printing, nothing else.

Whatever is heavy is imported by the command that needs it: `vidgen status` loads neither MindSpore nor Ray.
"""

from __future__ import annotations

import dataclasses
import json
import posixpath
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vidgen_dist import __version__, printing
from vidgen_dist.cli.flags import Flags, read_names, read_pair, with_flags
from vidgen_dist.errors import Refused, shortened
from vidgen_dist.quality import FLAGS
from vidgen_dist.spec import RunSpec, spec_from_flags
from vidgen_dist.yaml_core import read_value

if TYPE_CHECKING:
    from vidgen_dist.runtime.care.verifying import Verification
    from vidgen_dist.runtime.driver import RunResult

REFUSED, INTERRUPTED = 2, 130
"""Exit statuses beside those of a run that was started, see `RunResult`."""

_SHOWN_FAILURES = 100
_SHOWN_FINDINGS, _TOLD_FINDINGS = 20, 1000
"""Of each kind, as text and as JSON."""

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
manifest_app = typer.Typer(help="Check a manifest, or make one.", no_args_is_help=True)
app.add_typer(manifest_app, name="manifest")

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A sampling default, which rows may override."),
]
PassthroughOption = Annotated[
    list[str] | None,
    typer.Option(help="Columns copied to the ledger: once for each, or with commas between."),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def vidgen(
    _version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version."),
    ] = False,
) -> None:
    """Render videos at dataset scale on Ascend NPUs."""


@app.command()
@with_flags("render", "model", "topology")
def render(
    manifest: Annotated[str, typer.Argument(help="The manifest, or a run.yaml.")],
    output: Annotated[str | None, typer.Argument(help="Folder for videos and ledger.")] = None,
    *,
    model: Flags,
    topology: Flags,
    format: Annotated[str | None, typer.Option(help="mp4, gif, png or npy.")] = None,
    fps: Annotated[float | None, typer.Option(help="Frames per second of rows that do not say.")] = None,
    crf: Annotated[int | None, typer.Option(help="Quality of mp4, 0 (lossless) to 51.")] = None,
    reject: Annotated[
        list[str] | None,
        typer.Option(help=f"Videos that are failures, of {', '.join(FLAGS)}, with commas between."),
    ] = None,
    aigc_producer: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who is named in each file's label of GB 45438-2025.")
    ] = None,
    checkpoint_every: Annotated[
        int | None, typer.Option(metavar="K", help="Save renderings every K steps; by default never.")
    ] = None,
    set_: SetOption = None,
    seed: Annotated[int | None, typer.Option(help="Decides the seeds of rows that bring none.")] = None,
    passthrough: PassthroughOption = None,
    max_attempts: Annotated[
        int | None, typer.Option(help="Times that a row is tried when its gang dies or memory is short.")
    ] = None,
    max_failures: Annotated[
        str | None, typer.Option(metavar="N|P%", help="Stop when more rows have failed; by default never.")
    ] = None,
    bad_rows: Annotated[
        str | None,
        typer.Option(metavar="refuse|fail", help="Rows known to be bad: no run, or dead letters."),
    ] = None,
    grace: Annotated[
        str | None, typer.Option(help="Time to finish rows after SIGTERM, such as 30s or 10m.")
    ] = None,
    retry: Annotated[
        str | None, typer.Option(metavar="failed[:CLASS]", help="Only rows that were given up.")
    ] = None,
) -> None:
    """Render a manifest, or go on with it: rows that are done are left out.

    Exit status: 0 all rows done, 1 some failed, 2 refused before start, 130 interrupted.
    """
    flags = {
        **topology,
        "manifest.passthrough": read_names(passthrough),
        "manifest.retry": retry,
        "output.uri": output,
        "output.format": format,
        "output.fps": fps,
        "output.crf": crf,
        "output.reject": read_names(reject),
        "output.aigc_producer": aigc_producer,
        "output.checkpoint_every": checkpoint_every,
        "faults.max_attempts": max_attempts,
        "faults.max_failures": None if max_failures is None else read_value(max_failures),
        "faults.bad_rows": bad_rows,
        "faults.grace": grace,
        "seed": seed,
        **_sampling(set_),
    }
    given = {**model, **_given(flags)}
    result = run(_spec(manifest, given))
    raise typer.Exit(result.exit_status)


def run(spec: RunSpec) -> RunResult:
    """Render with a progress bar and print what became of it."""
    from vidgen_dist.runtime.driver import render as render_spec

    printing.never_wait()
    console = Console(stderr=True)
    try:
        result = render_spec(spec, console)
    except KeyboardInterrupt:
        _err("interrupted before anything was started")
        raise typer.Exit(INTERRUPTED) from None
    print_result(result, console)
    return result


@app.command()
@with_flags(
    "plan",
    "model",
    "topology",
    help={
        "topology.npus": "NPUs to divide; by default those of a host.",
        "topology.replicas": "Gangs that the run asks for.",
        "topology.ulysses": "Degree that the run asks for.",
        "topology.ring": "Degree that the run asks for.",
        "topology.cfg": "Degree that the run asks for.",
        "topology.gang": "Ranks of a gang that the run asks for.",
    },
)
def plan(
    run_file: Annotated[str | None, typer.Argument(metavar="[RUN.YAML]", help="A run; or --model.")] = None,
    *,
    model: Flags,
    set_: SetOption = None,
    topology: Flags,
    device_name: Annotated[str | None, typer.Option(help="910B, A3 or CPU.")] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="Videos to render; by default many.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what fits and what is fastest, from the checkpoint's configs: no weights, no NPUs."""
    from vidgen_dist.planner.planned_run import plan_splits
    from vidgen_dist.planner.report import as_json as plan_as_json
    from vidgen_dist.planner.report import summary, tables
    from vidgen_dist.runtime.plan import check_sampling, load_spec

    given = {**model, **_given({**topology, **_sampling(set_)})}
    if run_file is not None:
        spec = load_spec(run_file).override(given)
    elif "model.id" in model:
        spec = spec_from_flags({**given, "manifest.uri": "none", "output.uri": "none"})
    else:
        raise Refused("command line: nothing to plan: vidgen plan RUN.YAML, or vidgen plan --model MODEL")
    check_sampling(spec)
    plan = plan_splits(spec, device_name, rows)
    if as_json:
        print(json.dumps(plan_as_json(plan)))
        return
    console = Console()
    for table in tables(plan):
        console.print(table, "")
    for line in summary(plan):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


@app.command()
def status(
    output: Annotated[str, typer.Argument(help="Output of a run.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say how far a run is and how it fares, from its output alone."""
    from vidgen_dist.runtime.care.status import COUNTED, describe_run, read_status

    found = read_status(output)
    if as_json:
        print(json.dumps(found))
        return
    run = found.pop("run")
    found["counted"] = COUNTED[found["counted"]]
    failures, pace, left = (found.pop(name) for name in ("failures", "videos_per_minute", "seconds_left"))
    if pace is not None:
        found["pace"] = f"{pace:.1f} videos/min"
    if left is not None:
        found["time left"] = str(timedelta(seconds=round(left)))
    table = Table(show_header=False, box=None)
    for name, value in found.items():
        table.add_row(
            name, "unknown" if value is None else f"{value:,}" if isinstance(value, int) else escape(value)
        )
        if name == "failed":
            for error_class, count in failures.items():
                table.add_row("", f"{count:,} {escape(error_class)}")
    for name, value in describe_run(run) if run else ():
        table.add_row(name, escape(value))
    Console().print(table)


@app.command()
def failures(
    output: Annotated[str, typer.Argument(help="Output of a run.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
    export: Annotated[
        str | None, typer.Option(metavar="PARQUET", help="Write them to a file instead of printing.")
    ] = None,
) -> None:
    """Say which rows were given up and not done since: id, error, attempts, when."""
    import pyarrow.parquet as pq

    from vidgen_dist.runtime.care.status import read_failures
    from vidgen_dist.storage import open_export
    from vidgen_dist.uris import redact

    found = read_failures(output)
    if export is not None:
        place, name = open_export(export)
        try:
            with place.create(name) as file:
                pq.write_table(found, file)
        except OSError as error:
            raise Refused(f"--export: {error}") from None
        print(f"{redact(export)}: {_counted(len(found), 'row')}")
        return
    if as_json:
        print(json.dumps(found.to_pylist(), default=datetime.isoformat))
        return
    table = Table("id", "error", "message", "attempts", "when")
    for row in found.slice(max(0, len(found) - _SHOWN_FAILURES)).to_pylist():
        when = f"{row['finished_at']:%Y-%m-%d %H:%M:%S}Z"
        texts = (row["id"], row["error_class"] or "", row["error_message"] or "", str(row["attempts"]), when)
        table.add_row(*map(escape, texts))
    Console().print(table)
    if len(found) > _SHOWN_FAILURES:
        _err(f"the last {_SHOWN_FAILURES} of {len(found):,}; --json and --export have all")


@app.command()
def compact(output: Annotated[str, typer.Argument(help="Output of a run, which may go on.")]) -> None:
    """Merge the many small parts of a ledger into few."""
    from vidgen_dist.runtime.care.status import compact_ledger

    done = compact_ledger(output)
    parts = "1 part is" if done.before == 1 else f"{done.before:,} parts are"
    print(f"{parts} now {done.after:,}; {done.entries:,} entries were moved")


@app.command()
def verify(
    output: Annotated[str, typer.Argument(help="Output of a run, which may go on.")],
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
    """
    from rich.progress import Progress

    from vidgen_dist.runtime.care.verifying import verify as compare

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        folders = bar.add_task("folders", total=None)
        found = compare(
            output,
            deep=deep,
            repair=repair,
            limit=_TOLD_FINDINGS if as_json else _SHOWN_FINDINGS,
            say=_err,
            progress=lambda done, total: bar.update(folders, completed=done, total=total),
        )
    if as_json:
        print(json.dumps({**dataclasses.asdict(found), "whole": found.whole}))
    else:
        _print_verification(found)
    raise typer.Exit(0 if found.ok else 1)


@app.command()
def export(
    output: Annotated[str, typer.Argument(help="Output of a run.")],
    destination: Annotated[str, typer.Argument(metavar="URI", help="An empty folder.")],
    to: Annotated[str, typer.Option(metavar="hf|webdataset", help="A videofolder, or tar shards.")],
    manifest: Annotated[str | None, typer.Option(help="Where the run's manifest is now.")] = None,
    shard_size: Annotated[str, typer.Option(help="Size of a tar shard, at most.")] = "1GB",
    shard_rows: Annotated[int, typer.Option(min=1, help="Rows of a tar shard, at most.")] = 10_000,
) -> None:
    """Write the rows that are done, with their videos, as a data set; goes on where it was killed.

    Exit status: 0 all of them are there, 1 videos were missing or torn and are left out, 2 refused.
    """
    from rich.progress import Progress

    from vidgen_dist.runtime.care.exporting import export as write
    from vidgen_dist.uris import redact

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        rows = bar.add_task("rows", total=None)
        made = write(
            output,
            to,
            destination,
            manifest=manifest,
            shard_size=shard_size,
            shard_rows=shard_rows,
            limit=_SHOWN_FINDINGS,
            progress=lambda done, total: bar.update(rows, completed=done, total=total),
        )
    where = _counted(made.files, "shard" if to == "webdataset" else "file")
    print(
        f"{redact(destination)}: {_counted(made.videos, 'row')} in {where}, {made.kept:,} of them from before"
    )
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
        _err(
            f"{made.unsure:,} may have been rendered with other settings than they are told to have; they "
            f"could not be compared: {made.why_unsure}"
        )
    for left in made.left:
        _err(f"id {shortened(left.id)!r}: {left.message}")
    if made.missing:
        _err("`vidgen verify --repair` has them rendered again by the next `vidgen render`")
    raise typer.Exit(1 if made.missing else 0)


@app.command()
def demo(
    output: Annotated[str, typer.Argument(help="Folder for videos and ledger.")] = "vidgen-demo",
) -> None:
    """Render the manifest that ships with the package with a tiny random model on two local workers."""
    from vidgen_dist.demo import checkpoint_path, manifest_path

    spec = spec_from_flags(
        {
            "model.id": str(checkpoint_path()),
            "manifest.uri": str(manifest_path()),
            "output.uri": output,
            "topology.device": "cpu",
            "topology.replicas": 2,
        }
    )
    result = run(spec)
    _print_demo(spec)
    raise typer.Exit(result.exit_status)


@manifest_app.command("check")
@with_flags("manifest check", "model")
def check_manifest(
    uri: Annotated[str, typer.Argument(help="A Parquet file, a folder or a glob of them.")],
    *,
    model: Flags,
    set_: SetOption = None,
    passthrough: PassthroughOption = None,
    export: Annotated[
        str | None, typer.Option(metavar="PARQUET", help="Write all rows that are bad, and why, to a file.")
    ] = None,
) -> None:
    """Check every row without a model; with --model, also against what that checkpoint can do."""
    from vidgen_dist.families import known_fields
    from vidgen_dist.manifest import describe_unknown
    from vidgen_dist.media import ignore_warnings
    from vidgen_dist.runtime.plan import check_manifest as check
    from vidgen_dist.uris import redact

    ignore_warnings()
    flags = {"manifest.passthrough": read_names(passthrough), **_sampling(set_)}
    report = check(uri, {**model, **_given(flags)}, export)
    shown = redact(uri)
    for name in report.unknown_columns:
        _err(f"{shown}: {describe_unknown(name, known_fields())}")
    for problem in report.problems:
        _err(str(problem))
    if export is not None:
        print(f"{redact(export)}: {_counted(report.num_problems, 'row')}")
    if not report.ok:
        by_column = ", ".join(f"{column or 'row'} {count:,}" for column, count in report.counts.items())
        raise Refused(
            f"{shown}: {report.bad_rows:,} of {report.rows:,} rows cannot be rendered ({by_column})"
        )
    print(f"{shown}: {_counted(report.rows, 'row')}, all can be rendered")


@manifest_app.command("build")
def build_manifest(
    inputs: Annotated[list[str], typer.Argument(metavar="IN...", help=".txt, .csv or .jsonl files.")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="The manifest, named .parquet.")],
) -> None:
    """Make a manifest from text (a prompt a line), CSV or JSON lines."""
    from vidgen_dist.families import known_fields, needed_columns
    from vidgen_dist.manifest import describe_unknown
    from vidgen_dist.manifest_build import build
    from vidgen_dist.uris import redact

    report = build(inputs, out, fields=known_fields(), one_of=needed_columns())
    for name in report.unknown_columns:
        _err(f"{redact(report.uri)}: {describe_unknown(name, known_fields())}")
    print(f"{redact(report.uri)}: {_counted(report.rows, 'row')}, columns {', '.join(report.columns)}")


def main() -> None:
    """The entry point: errors that a person can cause are one message and status 2."""
    printing.guard()
    try:
        app()
    except Refused as error:
        _err(str(error))
        sys.exit(REFUSED)
    except SystemExit as ended:
        # What a run prints is beside its videos; what any other command prints is all that it makes.
        if not ended.code and (fault := printing.fault_of_output()):
            _err(f"standard output cannot be written: {fault.strerror}")
            sys.exit(REFUSED)
        raise


def print_result(result: RunResult, console: Console) -> None:
    """What became of a run."""
    if result.message:
        console.print(result.message, markup=False, highlight=False, soft_wrap=True)
    for name, value in result.lines():
        # Paths are to be copied: no line breaks of ours in them.
        console.print(f"{name:<8} {value}", markup=False, highlight=False, soft_wrap=True)
    for failure in result.failures:
        _err(f"failed: {failure}")
    if result.failed > len(result.failures):
        _err(f"and {result.failed - len(result.failures):,} more: see the ledger")


def _print_verification(found: Verification) -> None:
    """Counts, what is wrong by name, and what to do about it."""
    how = "read and decoded" if found.deep else "by size; --deep reads them"
    notes = {
        "videos": "that the ledger names",
        "whole": how,
        "missing": "",
        "torn": "",
        "orphaned": "of no entry: a run has yet to write it, or was killed; no harm",
        "superseded": "frames of earlier renderings, which may be deleted",
        "temporary": "being written, or left by a killed run",
    }
    table = Table(show_header=False, box=None)
    for name, note in notes.items():
        count = getattr(found, name)
        if count or name in ("videos", "whole", "missing", "torn"):
            table.add_row(name, f"{count:,}", note)
    Console().print(table)
    for finding in found.findings:
        whose = "" if finding.id is None else f" (id {shortened(finding.id)!r})"
        print(f"{finding.kind}: {finding.path}{whose}: {finding.message}")
    if found.missing + found.torn + found.orphaned > len(found.findings):
        _err(f"the first {len(found.findings):,}; --json has up to {_TOLD_FINDINGS:,} of each kind")
    if found.run is not None:
        _err(
            f"{found.run} holds this output, or did when it was killed; "
            "what it is writing at this moment may be among them"
        )
    if found.lost:
        print(f"{found.lost:,} marked as lost: the next `vidgen render` renders them again")
    elif not found.ok:
        _err("`vidgen verify --repair` has them rendered again by the next `vidgen render`")


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def _print_demo(spec: RunSpec) -> None:
    """The demo's rows and where the contact sheet is."""
    from vidgen_dist.manifest import open_manifest
    from vidgen_dist.runtime.contact_sheet import write_contact_sheet
    from vidgen_dist.runtime.entries import latest_entries
    from vidgen_dist.storage import open_storage

    output = open_storage(spec.output.uri)
    entries = latest_entries(output)
    rows = open_manifest(spec.manifest.uri).rows()
    prompts = {row.id: row.request.prompt or "" for row in rows}
    table = Table("id", "status", "prompt", "frames", "seconds", "file")
    for column in (table.columns[0], table.columns[-1]):
        column.no_wrap = True
    videos = []
    for row_id, prompt in prompts.items():
        entry = entries.get(row_id)
        if entry is None:
            table.add_row(row_id, "pending", prompt)
            continue
        if entry["uri"] is not None:
            videos.append((prompt, entry["uri"]))
        seconds = sum(value or 0.0 for name, value in entry.items() if name.startswith("seconds_"))
        table.add_row(
            row_id,
            entry["status"],
            prompt,
            str(entry["frames"]),
            f"{seconds:.1f}",
            posixpath.basename(entry["uri"] or ""),
        )
    console = Console()
    console.print(table)
    if videos:
        sheet = write_contact_sheet(output, videos, spec.output.format)
        console.print(f"contact sheet: {sheet}", markup=False, highlight=False, soft_wrap=True)


def _spec(manifest: str, flags: dict[str, Any]) -> RunSpec:
    from vidgen_dist.runtime.plan import load_spec

    if manifest.lower().endswith((".yaml", ".yml")):
        return load_spec(manifest).override(flags)
    missing = [flag for key, flag in (("output.uri", "OUTPUT"), ("model.id", "--model")) if key not in flags]
    if missing:
        raise Refused(
            f"command line: {' and '.join(missing)} missing: vidgen render MANIFEST OUTPUT --model MODEL"
        )
    return spec_from_flags({**flags, "manifest.uri": manifest})


def _given(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that the command line has."""
    return {key: value for key, value in flags.items() if value is not None}


def read_settings(
    options: Sequence[str], under: str = "", example: str = "topology.replicas=16"
) -> dict[str, Any]:
    """`KEY=VALUE` options as dotted keys of a spec; values are read as YAML reads them, texts as they are.

    Args:
        options: What follows each `--set`.
        under: What their keys lack of those of a spec.
        example: One, for the message.

    Raises:
        Refused: One is not `KEY=VALUE`.
    """
    settings: dict[str, Any] = {}
    for option in options:
        name, text = read_pair("--set", option, example)
        key = under + name
        settings[key] = text if _is_text(key) else read_value(text)
    return settings


def _is_text(key: str) -> bool:
    """Whether a key of a spec is a field of rows whose values are texts."""
    from vidgen_dist.families import fields_named

    section, _, name = key.partition(".")
    field = fields_named([name]).get(name) if section == "sampling" else None
    return field is not None and field.kind.is_text


def _sampling(options: list[str] | None) -> dict[str, Any]:
    return read_settings(options or (), "sampling.", "num_frames=49")


def _err(line: str) -> None:
    print(line, file=sys.stderr)
