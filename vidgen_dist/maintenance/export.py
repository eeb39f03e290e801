"""`vidgen export`: an output as a data set for others.

- `hf`: a folder for Hugging Face `datasets` (its `videofolder`): `videos/00000/000000000.mp4`, …, ten
  thousand per folder, and one `metadata.parquet`, whose `file_name` says which row a video belongs to. Files
  are named by their row's number: in a name made from an id, `test` would be taken for a split of that name.
- `webdataset`: tar shards `00000.tar`, … with `000000000.json` and `000000000.mp4` per row.

Both are in the manifest's order, and exporting the same output again gives the same bytes. `.export.json` in
the destination identifies the exported rows and videos. A killed export continues when it is started again:
what is there was written whole, and is kept if it has the right size. A shard that lacks rows has a file
`.00000.tar.left.json` beside it that names them; the next export looks for their videos again.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vidgen_dist import engine as engines
from vidgen_dist.engine import get_engine
from vidgen_dist.errors import Refused
from vidgen_dist.families.common.tasks import Rules
from vidgen_dist.families.rules import compute_dtype
from vidgen_dist.maintenance.export_folder import FolderExport
from vidgen_dist.maintenance.export_shards import ShardExport
from vidgen_dist.maintenance.export_writer import (
    ExportPolicy,
    ExportReport,
    ProgressCallback,
    remove_temporary_files,
)
from vidgen_dist.maintenance.manifest_join import ManifestJoin
from vidgen_dist.maintenance.status import is_current, open_output, reopen_manifest, run_fields
from vidgen_dist.manifest import Manifest, check, describe_problems
from vidgen_dist.output.fingerprint import identity_of
from vidgen_dist.output.resume import RowResolver
from vidgen_dist.output.status_file import read_status_file
from vidgen_dist.preflight.row_loras import RowLoras
from vidgen_dist.preflight.sampling import sampling_defaults
from vidgen_dist.spec import RunSpec, parse_bytes
from vidgen_dist.storage.folder import Storage, open_writable
from vidgen_dist.storage.names import is_temporary
from vidgen_dist.storage.uris import redact

HF, WEBDATASET = "hf", "webdataset"
KINDS = {HF: ("mp4",), WEBDATASET: ("mp4", "gif", "png", "npy")}
"""The kinds of exports, with the video formats that they take."""

SHARD_SIZE, SHARD_ROWS = "1GB", 10_000

EXPORT_FILE = ".export.json"


def export(
    uri: str,
    to: str,
    destination: str,
    *,
    manifest: str | None = None,
    shard_size: str = SHARD_SIZE,
    shard_rows: int = SHARD_ROWS,
    limit: int = 20,
    progress: ProgressCallback = lambda _done, _all: None,
    engine: str | None = None,
    policy: ExportPolicy = ExportPolicy(),
) -> ExportReport:
    """Write the finished rows of an output, with their videos, to another place.

    Args:
        uri: Output of a run.
        to: `hf` or `webdataset`.
        destination: An empty folder, or one in which this export was started.
        manifest: Where the run's manifest is now, if it was moved.
        shard_size: For `webdataset`, the size of a shard, such as `1GB`, at most; a single row may be larger.
        shard_rows: For `webdataset`, the rows of a shard, at most.
        limit: How many omitted rows to name.
        progress: Called with the number of rows that are done and of all rows.
        engine: Name of the module that rendered; by default the models. Tests have their own.
        policy: How the work is divided.

    Raises:
        Refused: There is no run's output, its manifest cannot be read, its format cannot be exported in this
            way, or the destination holds something else.
    """
    output, spec = open_output(uri)
    place = open_writable(destination)
    _check(output, spec, to, place)
    try:
        most_bytes = parse_bytes(shard_size)
    except ValueError as error:
        raise Refused(f"--shard-size: {error}") from None
    rows = _open_manifest(spec, manifest)
    try:
        with tempfile.TemporaryDirectory(prefix="vidgen-") as folder:
            join, why_unsure = _join_rows(output, spec, rows, Path(folder), engine or engines.ENGINE, policy)
            mark: dict[str, Any] = {"to": to, "rows": join.digest}
            if to == WEBDATASET:
                mark |= {"shard_size": most_bytes, "shard_rows": shard_rows}
            there = _claim_destination(place, mark)
            parts = (output, place, spec.output.format, join.counts, limit, progress, policy)
            if to == HF:
                to_folder = FolderExport(*parts)
                to_folder.write(join)
                return to_folder.result(why_unsure)
            to_shards = ShardExport(*parts)
            to_shards.write(join, there, most_bytes, shard_rows)
            return to_shards.result(why_unsure)
    except OSError as error:
        raise Refused(str(error)) from None


def _check(output: Storage, spec: RunSpec, to: str, place: Storage) -> None:
    if to not in KINDS:
        raise Refused(f"--to: {to!r} is not allowed; allowed: {', '.join(KINDS)}")
    if spec.output.format not in KINDS[to]:
        raise Refused(
            f"{redact(output.root)}: its videos are {spec.output.format}; --to {to} takes "
            f"{', '.join(KINDS[to])}; --to {WEBDATASET} takes all formats"
        )
    if place.root.startswith("hf://"):
        raise Refused(
            f"{redact(place.root)}: the Hub makes a commit for each file; export to a folder, and upload it "
            "with `hf upload-large-folder`"
        )
    if f"{place.root}/".startswith(f"{output.root.rstrip('/')}/"):
        raise Refused(f"{redact(place.root)}: is inside the exported output; give a folder elsewhere")


def _open_manifest(spec: RunSpec, uri: str | None) -> Manifest:
    try:
        return reopen_manifest(spec, uri)
    except Refused as error:
        hint = (
            ""
            if uri
            else "; an export needs the prompts: if the manifest was moved, give its place with --manifest"
        )
        raise Refused(f"{error}{hint}") from None


def _join_rows(
    output: Storage, spec: RunSpec, rows: Manifest, folder: Path, engine: str, policy: ExportPolicy
) -> tuple[ManifestJoin, str]:
    """The rows with their videos, and why these may be of other settings; empty if they are not."""
    resolvers, bad, why_unsure = _row_resolvers(output, spec, rows, engine)
    rules = resolvers[0].rules if resolvers else None
    join = ManifestJoin(output, rows, _defaults(spec, rules), folder, resolvers, bad, policy.join)
    if why_unsure:
        join.counts.unsure = join.counts.videos
    elif join.counts.unsure:
        why_unsure = "their images or clips cannot be read"
    return join, why_unsure


def _row_resolvers(
    output: Storage, spec: RunSpec, manifest: Manifest, engine: str
) -> tuple[list[RowResolver], np.ndarray, str]:
    """The resolvers that make the rows' fingerprints as a run does, the places of bad rows, and a reason.

    There are no resolvers if all rows are known to be done, or, with the reason, if the run's settings are
    not known.
    """
    run = read_status_file(output)
    none = np.empty(0, np.int64)
    if run is not None and is_current(run, output, manifest) and run.done == run.total:
        return [], none, ""
    # Opened once, so that weights are hashed once. Ascend takes every dtype.
    auto = spec.topology.device == "auto"
    try:
        opened = get_engine(engine).open_model(spec.model, "ascend" if auto else spec.topology.device)
        defaults = _defaults(spec, opened.rules)
        row_loras = RowLoras.of_run(opened, spec)
        report = check(manifest, defaults=defaults, resolve=row_loras.resolve)
        if report.id_problems:
            raise Refused(describe_problems(report.id_problems, report.counts["id"]))
    except Refused as error:
        return [], none, str(error)
    dtypes = [opened.dtype]
    if auto and spec.model.dtype is None:
        # The run may have used another device than this machine has.
        dtypes.append(compute_dtype(None, "cpu"))
    models = (dataclasses.replace(opened, dtype=dtype) for dtype in dtypes)
    identities = [identity_of(model, spec, row_loras.digests) for model in models]
    resolvers = [RowResolver(opened.rules, spec.seed, identity, row_loras.resolve) for identity in identities]
    return resolvers, report.bad, ""


def _defaults(spec: RunSpec, rules: Rules[Any] | None) -> dict[str, Any]:
    fields = {**run_fields(spec.sampling, "sampling"), **(rules.declared if rules else {})}
    # 49.0 is 49.
    return {name: fields[name].parse(name, value) for name, value in sampling_defaults(spec, rules).items()}


def _claim_destination(place: Storage, mark: Mapping[str, Any]) -> dict[str, int]:
    """Take an empty destination, or one in which this export was started; returns the files in it."""
    content = json.dumps(mark, sort_keys=True).encode()
    files, folders = place.entries()
    if EXPORT_FILE in files:
        if place.read_bytes(EXPORT_FILE) != content:
            raise Refused(
                f"{redact(place.root)}: has another export, or one of this output as it was before more rows "
                "were done, or with other shards; give an empty folder, or remove what is in this one"
            )
        remove_temporary_files(place, files)
        return files
    if others := [path for path in (*files, *folders) if not is_temporary(path)]:
        raise Refused(
            f"{redact(place.root)}: there is something else in it, such as {min(others)}; "
            "give an empty folder"
        )
    remove_temporary_files(place, files)
    place.write_bytes(EXPORT_FILE, content)
    return {}
