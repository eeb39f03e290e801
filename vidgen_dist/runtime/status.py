"""How far a run is, from its output alone."""

from __future__ import annotations

from typing import Any

from vidgen_dist import ledger
from vidgen_dist.errors import Refused
from vidgen_dist.manifest import open_manifest
from vidgen_dist.runtime.plan import RUN_FILE, read_run_file
from vidgen_dist.storage import open_storage, redact


def read_status(uri: str) -> dict[str, Any]:
    """Counts of rows and what the run is.

    Args:
        uri: Output of a run.

    Returns:
        `total` and `pending` (None if the manifest can no longer be read), `done`, `failed`, `failures`
        (error class -> rows), `manifest`, `model`, `task`, `output`.

    Raises:
        Refused: There is no run's output.
    """
    output = open_storage(uri)
    try:
        spec = read_run_file(output)
        if spec is None:
            raise Refused(f"{redact(uri)}: is no run's output: there is no {RUN_FILE} in it")
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
        "manifest": spec.manifest.uri,
        "model": spec.model.id,
        "task": spec.model.task,
        "output": spec.output.uri,
    }
