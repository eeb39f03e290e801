"""How far a run is and what failed, from its output alone; and the care of its ledger."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from vidgen_dist import ledger
from vidgen_dist.errors import Refused
from vidgen_dist.ledger import Compaction, compact
from vidgen_dist.manifest import open_manifest
from vidgen_dist.runtime.plan import RUN_FILE, read_run_file
from vidgen_dist.spec import RunSpec
from vidgen_dist.storage import Storage, open_storage, redact


def read_status(uri: str) -> dict[str, Any]:
    """Counts of rows and what the run is.

    Args:
        uri: Output of a run.

    Returns:
        `total` and `pending` (None if the manifest can no longer be read), `done`, `failed`, `failures`
        (error class -> rows), `videos_per_minute` and `seconds_left` (None if it does not go on), `manifest`,
        `model`, `task`, `output`.

    Raises:
        Refused: There is no run's output.
    """
    output, spec = open_output(uri)
    try:
        try:
            total = open_manifest(spec.manifest.uri, passthrough=spec.manifest.passthrough).num_rows
        except Refused:
            total = None
        counts = ledger.summary(output, total)
    except OSError as error:
        raise Refused(str(error)) from None
    return {
        "total": counts.total,
        "done": counts.done,
        "failed": counts.failed,
        "pending": counts.pending,
        "failures": dict(counts.failures),
        "videos_per_minute": counts.videos_per_minute,
        "seconds_left": counts.seconds_left,
        "manifest": spec.manifest.uri,
        "model": spec.model.id,
        "task": spec.model.task,
        "output": spec.output.uri,
    }


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
    """An output and the run that it is of.

    Raises:
        Refused: There is no run's output.
    """
    output = open_storage(uri)
    try:
        spec = read_run_file(output)
    except OSError as error:
        raise Refused(str(error)) from None
    if spec is None:
        raise Refused(f"{redact(uri)}: is no run's output: there is no {RUN_FILE} in it")
    return output, spec
