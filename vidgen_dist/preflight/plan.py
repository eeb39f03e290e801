"""The plan: everything that is known, checked and decided before Ray starts or a model loads."""

from __future__ import annotations

import difflib
import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vidgen_dist import engine as engines
from vidgen_dist.engine import OpenedModel, get_engine
from vidgen_dist.errors import Refused
from vidgen_dist.families import OUR_FIELDS, fields_named, known_fields, needed_columns
from vidgen_dist.families.common.tasks import Rules
from vidgen_dist.inline import is_inline
from vidgen_dist.ledger import LedgerState, check_passthrough, read_ledger, with_earlier_types
from vidgen_dist.manifest import (
    BadRows,
    CheckReport,
    Manifest,
    ProbeError,
    Problem,
    Reason,
    check,
    create_bad_rows_file,
    find_bad_rows,
    open_manifest,
    ordered_rows,
)
from vidgen_dist.media import MediaError, read_image, read_video
from vidgen_dist.output.fingerprint import Counting, Identity
from vidgen_dist.output.pending_row import PendingRow
from vidgen_dist.output.recovery import mark_maybe_stored, max_unrecorded
from vidgen_dist.output.resume import RowRecords, RowResolver, find_done
from vidgen_dist.output_layout import LEDGER_FOLDER, RUN_FILE, VIDEOS_FOLDER
from vidgen_dist.request import (
    FPS,
    Field,
    RenderRequest,
    RequestError,
    ResolvedRequest,
    sources_of,
    with_sources,
)
from vidgen_dist.spec import RunSpec, parse_spec, spec_from_flags
from vidgen_dist.storage.files import read_bytes
from vidgen_dist.storage.folder import Storage, open_export, open_storage, open_writable
from vidgen_dist.storage.listing import would_find
from vidgen_dist.storage.uris import absolute, lacks_secret, redact, to_record

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """A run that may begin.

    Args:
        spec: With absolute paths, and the revision as it was asked for or as the run before recorded it.
        device: `cpu` or `ascend`.
        model: What is known of the model.
        identity: What decides the pixels of every row alike.
        manifest: The opened manifest.
        output: The opened output.
        records: What is known of every row.
        reasons: Why rows of the manifest are bad; none if it has none.
        newest: `LedgerState.newest` of the output.
        passthrough: Names and types of the columns that are copied to the ledger.
        before: The run that the output is of, if there was one.
    """

    spec: RunSpec
    device: str
    model: OpenedModel
    identity: Identity
    manifest: Manifest
    output: Storage
    records: RowRecords
    reasons: tuple[Reason, ...]
    newest: int
    passthrough: pa.Schema
    before: RunSpec | None

    @property
    def decided(self) -> RunSpec:
        """The spec as every worker, of today and of the next restart, reads it: one commit, one task."""
        recorded = self.model.recorded
        keys = ("model.task", "model.revision", "model.adapter_revision")
        return self.spec.override({key: recorded[key] for key in keys})

    @property
    def total(self) -> int:
        """Rows that are done, bad or to be rendered: all of the manifest, unless the run chooses some."""
        return self.done + self.bad + self.pending

    @property
    def pending(self) -> int:
        """Rows that are to be rendered."""
        return int(np.count_nonzero(self._wanted))

    @property
    def bad(self) -> int:
        """Rows that cannot be rendered as they stand."""
        return int(np.count_nonzero(self.records.chosen & self.records.bad))

    @property
    def done(self) -> int:
        """Rows that were done before."""
        return int(np.count_nonzero(self.records.is_done))

    @property
    def _wanted(self) -> np.ndarray:
        return self.records.chosen & ~self.records.is_done & ~self.records.bad

    @property
    def too_many_are_bad(self) -> bool:
        """Whether the run ends before anything is rendered, by `faults.max_failures`."""
        return bool(self.bad) and self.spec.faults.failures_allowed(0, self.pending, self.bad) < 0

    def bad_rows(self, wanted: np.ndarray) -> Iterator[tuple[np.ndarray, BadRows]]:
        """Some of the bad rows, each time with their places in the manifest: int64 (n,).

        Args:
            wanted: Which: bool (rows,).

        Raises:
            Refused: The manifest cannot be read, or was changed.
        """
        defaults = sampling_defaults(self.spec, self.model.rules)
        try:
            for places, batch in self.manifest.wanted_batches(defaults, wanted):
                yield places, find_bad_rows(batch, self.model.rules.resolve)
        except OSError as error:
            raise Refused(str(error)) from None

    def rows(self) -> Iterator[PendingRow]:
        """The rows that are to be rendered, see `manifest.ordered_rows`.

        Raises:
            OSError: The manifest cannot be read, or was changed.
        """
        resolving = RowResolver(self.model.rules, self.spec.seed, self.identity)
        defaults = sampling_defaults(self.spec, self.model.rules)
        ordered = ordered_rows(self.manifest, self._wanted, defaults, self.model.rules.defaults)
        rows = (
            PendingRow(
                request=resolving.request(row),
                attempt=int(self.records.attempts[place]) + 1,
                passthrough=dict(row.extra),
                invalidated=bool(self.records.invalidated[place]),
            )
            for place, row in ordered
        )
        if self.before is None:
            return rows
        return mark_maybe_stored(rows, max_unrecorded(self.before.topology), self.model.rules.declared)


def load_spec(uri: str) -> RunSpec:
    """Read a run.yaml from a path or URI.

    Raises:
        Refused: It is not there, or wrong: names the file, the line and the key.
    """
    try:
        text = read_bytes(uri)
    except OSError as error:
        raise Refused(str(error)) from None
    return parse_spec(text, redact(uri))


def make_plan(spec: RunSpec, *, device: str, engine: str) -> Plan:
    """Check a run from end to end without a model: checkpoint, manifest, every row, output.

    Args:
        spec: What the run is.
        device: `cpu` or `ascend`.
        engine: Module name of what renders.

    Raises:
        Refused: Names the file, row, column or key, and what is allowed.
    """
    check_sampling(spec)
    _check_whole(spec)
    spec = with_absolute_paths(spec)
    output = open_writable(spec.output.uri)
    _check_apart(spec, output)
    before = _previous_run(output)
    if before is not None:
        spec = spec.override(_revisions_of(before, spec))
    model: OpenedModel = get_engine(engine).open_model(spec.model, device, spec.topology.ring)
    model.rules.check_defaults(spec.sampling)
    manifest = open_checked(spec, model.rules)
    try:
        report = check(manifest, defaults=sampling_defaults(spec, model.rules), resolve=model.rules.resolve)
        _check_bad_rows(spec, report)
        ledger = read_ledger(output)
        if before is not None:
            # A run that never got as far as a row leaves nothing to be mixed up with.
            if ledger.parts:
                _check_same_run(spec, before, model)
            _check_manifest_belongs(spec, before, ledger, manifest)
        identity = identity_of(model, spec)
        resolving = RowResolver(model.rules, spec.seed, identity)
        records = find_done(
            manifest, sampling_defaults(spec, model.rules), resolving, ledger, spec.manifest.retry, report.bad
        )
        passthrough = with_earlier_types(output, manifest.extra_schema)
    except OSError as error:
        raise Refused(str(error)) from None
    return Plan(
        spec=spec,
        device=device,
        model=model,
        identity=identity,
        manifest=manifest,
        output=output,
        records=records,
        reasons=report.reasons,
        newest=ledger.newest,
        passthrough=passthrough,
        before=before,
    )


def _check_bad_rows(spec: RunSpec, report: CheckReport) -> None:
    """Refuse bad rows, unless they are to be dead letters: then those whose id says nothing of the row."""
    if report.ok:
        return
    if spec.faults.bad_rows == "refuse":
        told = describe_problems(report.problems, report.num_problems)
        if not report.id_problems:
            told += "\n`--bad-rows fail` makes dead letters of them, and renders the others"
        raise Refused(told)
    if report.id_problems:
        told = describe_problems(report.id_problems, report.counts["id"])
        raise Refused(f"{told}\nids are refused with `--bad-rows fail`, too: dead letters are known by them")


def _revisions_of(before: RunSpec, spec: RunSpec) -> dict[str, str | None]:
    """The commits of the run before, where this one asks for none of its own.

    A branch that has moved since must not have finished rows rendered again.
    """
    then, now = before.model, spec.model
    kept = {}
    if now.revision is None and then.id == now.id:
        kept["model.revision"] = then.revision
    if now.adapter_revision is None and then.adapter == now.adapter:
        kept["model.adapter_revision"] = then.adapter_revision
    return kept


def identity_of(model: OpenedModel, spec: RunSpec) -> Identity:
    """What decides the pixels of every row of a run alike."""
    return Identity(
        model=model.whole_digest,
        task=model.rules.task,
        dtype=model.dtype,
        format=spec.output.format,
        crf=spec.output.crf if spec.output.format == "mp4" else None,
        options=spec.model.pixel_options(),
        counting=Counting(model.rules.declared, model.rules.of_task.late, model.rules.of_task.memory_only),
    )


def open_checked(spec: RunSpec, rules: Rules[Any] | None) -> Manifest:
    """Open a run's manifest: its columns are checked, its rows are not yet.

    Args:
        spec: Which, and what is passed through.
        rules: What the model takes; if it is not known, all that any model takes is read.

    Raises:
        Refused: As `open_manifest`; or a column cannot be passed through.
    """
    manifest = open_manifest(
        spec.manifest.uri,
        passthrough=spec.manifest.passthrough,
        fields=known_fields() if rules is None else rules.declared,
        required=() if rules is None else rules.required_columns,
        one_of=needed_columns() if rules is None else (),
        ignored=() if rules is None else rules.ignored,
    )
    check_passthrough(manifest.extra_schema)
    if rules is not None:
        for name in manifest.ignored_columns:
            said = f"column {name!r} is ignored: {rules.family} {rules.task} does not take it"
            _log.warning("%s: %s", redact(manifest.uri), said)
    return manifest


def read_run_file(output: Storage) -> RunSpec | None:
    """The run that an output is of; None if it has no `run.yaml`.

    Raises:
        Refused: The file is wrong.
        OSError: The storage failed.
    """
    return load_spec(output.uri(RUN_FILE)) if output.exists(RUN_FILE) else None


def write_run_file(plan: Plan) -> bytes:
    """Write `run.yaml`, the spec as it is run, which also shows that the output can be written to.

    Returns:
        What it holds.

    Raises:
        Refused: It cannot.
    """
    plan.output.check_writable()
    spec = plan.spec.override(
        {
            **plan.model.recorded,
            "manifest.uri": to_record(plan.spec.manifest.uri),
            "manifest.retry": None,
            "manifest.fields": [name for name in plan.manifest.columns if name not in OUR_FIELDS] or None,
            **_with_addresses(plan.spec, to_record),
        }
    )
    content = spec.to_yaml().encode()
    try:
        plan.output.write_bytes(RUN_FILE, content)
    except OSError as error:
        raise Refused(f"{redact(plan.spec.output.uri)} cannot be used for output: {error}") from None
    return content


def check_sampling(spec: RunSpec) -> None:
    """Refuse a sampling default that is no field of a request, or has a value that cannot be."""
    fields = fields_named(spec.sampling)
    for name, value in spec.sampling.items():
        field = fields.get(name)
        # Whether `fps` can be one, the model's rules know.
        if field is None or (field.not_sampling and name != FPS):
            raise Refused(_not_under_sampling(name, field))
        try:
            if value is not None:
                field.parse(name, value)
        except RequestError as error:
            raise Refused(f"sampling.{error}") from None
    for name, text in sampling_addresses(spec).items():
        if is_inline(text):
            raise Refused(
                f"sampling.{name}: {text[:30]!r}… ({len(text):,} characters) would go into {RUN_FILE}; "
                "save it as a file and give its path, or write it into the manifest's rows"
            )


def _not_under_sampling(name: str, field: Field | None) -> str:
    allowed = [known for known, other in known_fields().items() if not other.not_sampling]
    if field is not None:
        return f"sampling.{name}: {field.not_sampling}; allowed under sampling: {', '.join(allowed)}"
    near = difflib.get_close_matches(name, allowed, 1)
    hint = f"did you mean sampling.{near[0]}? " if near else ""
    return f"sampling.{name} is no field of a request; {hint}allowed: {', '.join(allowed)}"


def sampling_defaults(spec: RunSpec, rules: Rules[Any] | None) -> dict[str, Any]:
    """Values for the request fields that a row leaves out.

    Args:
        spec: What the run is.
        rules: What the model takes, where it is known.
    """
    given = {name: value for name, value in spec.sampling.items() if value is not None}
    if spec.output.fps is None:
        return given
    return {**given, FPS if rules is None else rules.of_task.file_fps: spec.output.fps}


def with_absolute_paths(spec: RunSpec) -> RunSpec:
    """The spec with local paths made absolute: workers, and the next reader of run.yaml, stand elsewhere."""
    return spec.override(
        {
            "output.uri": open_storage(spec.output.uri).root,
            "manifest.uri": absolute(spec.manifest.uri),
            "model.id": _absolute_folder(spec.model.id),
            "model.adapter": _absolute_folder(spec.model.adapter),
            **_with_addresses(spec, absolute),
        }
    )


def _absolute_folder(model: str | None) -> str | None:
    """A folder's absolute path; a hub id as it is."""
    folder = None if model is None else absolute(model)
    return folder if folder is not None and Path(folder).is_dir() else model


def sampling_addresses(spec: RunSpec) -> dict[str, str]:
    """Paths and URIs of images and clips of rows that bring none, by name."""
    sources = sources_of(spec.sampling, fields_named(spec.sampling))
    return {name: source.value for name, source in sources.items() if isinstance(source.value, str)}


def _with_addresses(spec: RunSpec, change: Callable[[str], str]) -> dict[str, Any]:
    """Keys under `sampling`, and values, whose paths and URIs are changed."""
    changed = {name: change(uri) for name, uri in sampling_addresses(spec).items()}
    fields = with_sources(spec.sampling, changed, fields_named(spec.sampling))
    return {f"sampling.{name}": value for name, value in fields.items()}


def describe_problems(problems: Sequence[Problem], count: int) -> str:
    """What is wrong with a manifest, one row a line; of so many problems the first."""
    lines = [str(problem) for problem in problems]
    if count > len(lines):
        lines.append(f"and {count - len(lines):,} more")
    return "\n".join(lines)


def _check_whole(spec: RunSpec) -> None:
    """Refuse URIs that a run has written down without their secrets, see `uris.to_record`."""
    media = {f"sampling.{name}": uri for name, uri in sampling_addresses(spec).items()}
    for key, uri in {"manifest.uri": spec.manifest.uri, **media}.items():
        if lacks_secret(uri):
            raise Refused(
                f"{key}: {redact(uri)} was written down without the secret that opens it; "
                "give the whole URI again"
            )


def _check_apart(spec: RunSpec, output: Storage) -> None:
    """Refuse an output in the manifest: the next run would take the ledger's parts for files of it."""
    if would_find(spec.manifest.uri, output.uri(f"{LEDGER_FOLDER}/part.parquet")):
        raise Refused(
            f"{redact(output.uri())}: lies in the manifest {redact(spec.manifest.uri)}, which would come to "
            "hold the ledger; give a folder outside of it, or name the manifest's files: *.parquet"
        )


def _previous_run(output: Storage) -> RunSpec | None:
    """The run that the output is of, if any; refused if what is there is no run's."""
    try:
        before = read_run_file(output)
        if before is not None:
            return before
        for folder in (VIDEOS_FOLDER, LEDGER_FOLDER):
            if output.list(folder):
                raise Refused(
                    f"{redact(output.uri())}: has {folder}/ but no {RUN_FILE}, so it is no run's output; "
                    "give another folder"
                )
    except OSError as error:
        raise Refused(str(error)) from None
    return None


def _check_same_run(spec: RunSpec, before: RunSpec, model: OpenedModel) -> None:
    """Refuse an output that is another run's."""
    # A folder elsewhere with the same in it is the same model.
    same = model.revision is None and before.model.digest == model.digest
    for key, then, now in (
        ("model.id", before.model.id, before.model.id if same else spec.model.id),
        ("model.task", before.model.task, model.rules.task),
        ("output.format", before.output.format, spec.output.format),
    ):
        if then != now:
            raise Refused(
                f"{redact(spec.output.uri)}: is the output of another run: {key} is {then!r} in its "
                f"{RUN_FILE}, here {now!r}; give another folder"
            )


def _check_manifest_belongs(spec: RunSpec, before: RunSpec, ledger: LedgerState, manifest: Manifest) -> None:
    """Refuse a manifest that has nothing to do with what is in the output."""
    uri = redact(spec.manifest.uri)
    if before.manifest.uri == to_record(spec.manifest.uri) or not ledger.parts:
        return
    if not any(ledger.has_entries(batch.ids).any() for batch in manifest.batches(extras=False)):
        raise Refused(
            f"{redact(spec.output.uri)}: is the output of another run: its manifest is "
            f"{redact(before.manifest.uri)}, and no row of {uri} is in its ledger; give another folder"
        )


def check_manifest(uri: str, flags: Mapping[str, Any], export: str | None = None) -> CheckReport:
    """Check every row of a manifest, its images and clips too, without a model.

    Args:
        uri: The manifest.
        flags: Dotted keys of a spec. With `model.id`, rows are also checked against what that model can do.
        export: A Parquet file to list all bad rows in, see `manifest.create_bad_rows_file`.

    Raises:
        Refused: What is wrong with the manifest as a whole, or with the flags.
    """
    spec = spec_from_flags({"model.id": "none", **flags, "manifest.uri": uri, "output.uri": "none"})
    check_sampling(spec)
    rules: Rules[Any] | None = None
    if "model.id" in flags:
        rules = get_engine(engines.ENGINE).open_model(spec.model, "cpu").rules
        rules.check_defaults(spec.sampling)
        engines.check_tokenizers(spec.model)
    manifest = open_checked(spec, rules)
    look = functools.partial(
        check,
        manifest,
        defaults=sampling_defaults(spec, rules),
        resolve=rules.resolve if rules else None,
        probe=functools.partial(_probe, rules=rules),
    )
    if export is None:
        return look()
    place, name = open_export(export)
    if would_find(uri, place.uri(name)) or place.uri(name) in {file.uri for file in manifest.files}:
        raise Refused(f"--export {redact(export)}: lies in the manifest {redact(uri)}; give another place")
    # Images take hours to look at.
    place.check_writable()
    try:
        with create_bad_rows_file(place, name) as on_bad:
            return look(on_bad=on_bad)
    except OSError as error:
        raise Refused(f"--export: {error}") from None


def _probe(request: RenderRequest | ResolvedRequest, rules: Rules[Any] | None) -> None:
    fields = known_fields() if rules is None else rules.declared
    for name, source in sources_of(request.values(), fields).items():
        try:
            frames = read_video(source.value) if source.is_clip else [read_image(source.value)]
        except (MediaError, OSError) as error:
            raise ProbeError(name.partition("[")[0], str(error)) from error
        if source.is_clip and rules is not None:
            rules.of_task.check_clip(request, len(frames))
