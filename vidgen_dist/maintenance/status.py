"""How far a run is and what failed, from its output alone; and maintenance of its ledger.

A run reports its state in `status.json`, one file however many rows there are. It counts rows as a run does:
videos of other settings are not done. After the run the counts stay valid as long as settings, manifest and
ledger do not change; otherwise the manifest's ids are looked up in the ledger.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Any

import pyarrow as pa

from vidgen_dist import ledger
from vidgen_dist.errors import Refused
from vidgen_dist.families import fields_named
from vidgen_dist.ledger import Compaction, compact
from vidgen_dist.manifest import Manifest, open_manifest
from vidgen_dist.observability.progress import span
from vidgen_dist.output.lease import has_died
from vidgen_dist.output.run_file import read_run_file
from vidgen_dist.output.status_file import RunStatus, digest_of_counted, read_status_file
from vidgen_dist.output_layout import RUN_FILE
from vidgen_dist.request import Field
from vidgen_dist.spec import RunSpec
from vidgen_dist.storage.folder import Storage, open_storage
from vidgen_dist.storage.uris import redact

SHOWN_STRAGGLERS = 10

COUNTED = {
    "run": "by the latest run",
    "ids": "in the ledger, by the manifest's ids, whatever they were rendered with",
    "ledger": "in the ledger, all of its ids: the manifest cannot be read",
}
"""What the counts of `read_status` may count."""

_COUNTS = {"counted", "total", "done", "failed", "pending", "failures", "videos_per_minute", "seconds_left"}


def read_status(uri: str) -> dict[str, Any]:
    """How many rows are done, failed and pending, and what the run is.

    Args:
        uri: Output of a run.

    Returns:
        `counted` (a key of `COUNTED`), `total` and `pending` (None if the manifest can no longer be read),
        `done`, `failed`, `failures` (error class -> rows), `videos_per_minute` and `seconds_left` (None if no
        run is at work), `manifest`, `model`, `task`, `output`; and `run`, the latest run in `status.json`,
        with `live` (whether it is at work), `died` (whether it certainly is not, though the file says so) and
        `silent_seconds`; None without the file.

    Raises:
        Refused: There is no run's output.
    """
    output, spec = open_output(uri)
    try:
        run = read_status_file(output)
        died = run is not None and run.state == "running" and has_died(output, run.run)
        live = run is not None and run.is_live and not died
        counted, counts = ("run", run) if run is not None and live else _count(output, spec, run)
    except OSError as error:
        raise Refused(str(error)) from None
    # Without a status file, a run may just have started. The pace of a run that ended no longer applies.
    goes_on = live or run is None
    return {
        "counted": counted,
        "total": counts.total,
        "done": counts.done,
        "failed": counts.failed,
        "pending": counts.pending,
        "failures": dict(counts.failures),
        "videos_per_minute": counts.videos_per_minute if goes_on else None,
        "seconds_left": counts.seconds_left if goes_on else None,
        "manifest": redact(spec.manifest.uri),
        "model": spec.model.id,
        "task": spec.model.task,
        "output": redact(spec.output.uri),
        "run": run
        and {
            **run.model_dump(mode="json", exclude=_COUNTS),
            "live": live,
            "died": died,
            "silent_seconds": run.silent_seconds,
        },
    }


def describe_run(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The latest run for people: names and values.

    Args:
        run: As `read_status` gives it.
    """
    silent, since, updated = (
        span(run["silent_seconds"]),
        _format_time(run["since"]),
        _format_time(run["updated"]),
    )
    if run["live"]:
        lines = [("run", f"{run['run']} at work since {since}, last heard of {silent} ago")]
        lines.append(("gangs", describe_gangs(run["gang_states"], (gang["state"] for gang in run["gangs"]))))
        slow = describe_stragglers(run["slow_rows"], run["slow_gangs"])
        return lines + [("stragglers" if line is slow[0] else "", line) for line in slow]
    if run["died"]:
        state = f"died; last heard of {silent} ago; run it again to go on"
    elif run["state"] == "running":
        state = f"no sign of life for {silent}: it died, or cannot reach its output; run it again to go on"
    else:
        message = run["message"].removeprefix(f"{run['state']}; ")
        state = f"{run['state']} {updated}" + (f": {message}" if message else "")
    return [("run", f"{run['run']} {state}")]


def describe_gangs(states: Mapping[str, int], listed: Iterable[str]) -> str:
    """How many gangs are in which state: `3 rendering, 1 loading`.

    Args:
        states: State -> gangs; empty in the file of an earlier release.
        listed: The states of the gangs that the file lists.
    """
    counts = states or Counter(listed)
    return ", ".join(f"{count:,} {state}" for state, count in counts.items()) or "none"


def describe_stragglers(slow_rows: Iterable[Any], slow_gangs: Iterable[Any]) -> list[str]:
    """The worst stragglers of a run, a line for each, from mappings as in `status.json`."""
    slow = [
        f"row {row['row']} on {row['gang']}: for {span(row['seconds'])}, usually {span(row['usual_seconds'])}"
        for row in slow_rows
    ]
    slow += [f"gang {gang['gang']}: {gang['times']:.1f} times the usual" for gang in slow_gangs]
    if len(slow) > SHOWN_STRAGGLERS:
        slow[SHOWN_STRAGGLERS:] = [f"and {len(slow) - SHOWN_STRAGGLERS:,} more: see --json"]
    return slow


def _format_time(text: str) -> str:
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M:%S}Z"


def _count(output: Storage, spec: RunSpec, run: RunStatus | None) -> tuple[str, RunStatus | ledger.Summary]:
    """The counts of an output without a running run, and what they count."""
    try:
        manifest = reopen_manifest(spec)
    except Refused:
        return "ledger", ledger.summary(output)
    if run is not None and is_current(run, output, manifest):
        return "run", run
    return "ids", ledger.summary(output, manifest.num_rows, manifest.id_arrays())


def reopen_manifest(spec: RunSpec, uri: str | None = None) -> Manifest:
    """Open the manifest of a run as the run did, without its model.

    Args:
        spec: The run, as its output's run.yaml has it.
        uri: Where the manifest is now; by default where it was.

    Raises:
        Refused: As `open_manifest`; or the run has read columns that no package here knows.
    """
    # These columns are part of the ids of rows without an id.
    fields = run_fields(spec.manifest.fields or (), "manifest.fields")
    return open_manifest(
        uri or spec.manifest.uri,
        passthrough=spec.manifest.passthrough,
        fields=fields,
        required=(),
        # If the run's model did not ignore them, the run has checked them all.
        ignored=[name for name, field in fields.items() if field.may_be_ignored],
    )


def run_fields(names: Collection[str], key: str) -> Mapping[str, Field]:
    """The fields of a run: our own, and those of another package's family.

    Args:
        names: The names in the run.
        key: Their key in its run.yaml.

    Raises:
        Refused: No family on this host has one of them.
    """
    fields = fields_named(names)
    if missing := [name for name in names if name not in fields]:
        raise Refused(
            f"{RUN_FILE}: {key}: no family on this host has {', '.join(missing)}; "
            "install the package of the run's family"
        )
    return fields


def is_current(run: RunStatus, output: Storage, manifest: Manifest) -> bool:
    """Whether the counts that a run wrote when it ended are still valid."""
    if run.state == "running" or run.counted != digest_of_counted(output.read_bytes(RUN_FILE), manifest):
        return False
    return not ledger.has_later_parts(output, run.updated)


def read_failures(uri: str) -> pa.Table:
    """The dead letters of an output, see `ledger.dead_letters`. Raises as `read_status`."""
    output, _ = open_output(uri)
    try:
        return ledger.dead_letters(output)
    except OSError as error:
        raise Refused(str(error)) from None


def compact_ledger(uri: str) -> Compaction:
    """Merge the small parts of an output's ledger, see `ledger.compact`. Raises as `read_status`."""
    output, _ = open_output(uri)
    try:
        return compact(output)
    except OSError as error:
        raise Refused(str(error)) from None


def open_output(uri: str) -> tuple[Storage, RunSpec]:
    """An output and its run.

    Raises:
        Refused: There is no run's output.
    """
    output = open_storage(uri)
    try:
        spec = read_run_file(output)
    except OSError as error:
        raise Refused(str(error)) from None
    if spec is None:
        raise Refused(f"{redact(uri)}: is not the output of a run: there is no {RUN_FILE} in it")
    return output, spec
