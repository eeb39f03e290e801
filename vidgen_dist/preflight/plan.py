"""The plan of a run: everything that is known, checked and decided before Ray starts or a model loads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from vidgen_dist.engine import OpenedModel, get_engine
from vidgen_dist.errors import Refused
from vidgen_dist.families import OUR_FIELDS
from vidgen_dist.ledger import read_ledger, with_earlier_types
from vidgen_dist.manifest import BadRows, Manifest, Reason, check, find_bad_rows, ordered_rows
from vidgen_dist.output.fingerprint import Identity, identity_of
from vidgen_dist.output.pending_row import PendingRow
from vidgen_dist.output.recovery import mark_maybe_stored, max_unrecorded
from vidgen_dist.output.resume import LookupPolicy, RowRecords, RowResolver, find_done
from vidgen_dist.preflight.manifest_check import check_bad_rows, open_run_manifest
from vidgen_dist.preflight.output_check import (
    check_outside_manifest,
    check_same_run,
    read_previous_run,
    with_previous_revisions,
)
from vidgen_dist.preflight.paths import check_secrets, uris_to_record, with_absolute_paths
from vidgen_dist.preflight.row_loras import RowLoras
from vidgen_dist.preflight.sampling import check_sampling, sampling_defaults
from vidgen_dist.spec import RunSpec
from vidgen_dist.storage.folder import Storage, open_writable


@dataclass(frozen=True)
class Plan:
    """A run that may begin.

    Args:
        spec: With absolute paths, and the revision as it was asked for or as the run before recorded it.
        device: `cpu` or `ascend`.
        model: What is known of the model.
        row_loras: The LoRAs that rows name.
        identity: What decides the pixels of every row alike.
        manifest: The opened manifest.
        output: The opened output.
        records: What is known of every row.
        reasons: Why rows of the manifest are bad; none if it has none.
        newest: `LedgerState.newest` of the output.
        failures: `LedgerState.failures` of the output.
        passthrough: Names and types of the columns that are copied to the ledger.
        before: The run that the output is of, if there was one.
    """

    spec: RunSpec
    device: str
    model: OpenedModel
    row_loras: RowLoras[Any]
    identity: Identity
    manifest: Manifest
    output: Storage
    records: RowRecords
    reasons: tuple[Reason, ...]
    newest: int
    failures: Mapping[str, int]
    passthrough: pa.Schema
    before: RunSpec | None

    @property
    def decided(self) -> RunSpec:
        """The spec as every worker, of today and of the next restart, reads it: one commit, one task."""
        return self.spec.override({**self.model.decided, "model.row_loras": self.row_loras.found or None})

    @property
    def recorded(self) -> RunSpec:
        """The spec as `run.yaml` keeps it: without secrets, and without what holds for one run only."""
        return self.spec.override(
            {
                **self.model.recorded,
                "manifest.retry": None,
                "manifest.keep": False,
                "manifest.fields": [name for name in self.manifest.columns if name not in OUR_FIELDS] or None,
                **uris_to_record(self.spec),
            }
        )

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
                yield places, find_bad_rows(batch, self.row_loras.resolve)
        except OSError as error:
            raise Refused(str(error)) from None

    def rows(self) -> Iterator[PendingRow]:
        """The rows that are to be rendered, see `manifest.ordered_rows`.

        Raises:
            OSError: The manifest cannot be read, or was changed.
        """
        resolving = RowResolver(self.model.rules, self.spec.seed, self.identity, self.row_loras.resolve)
        defaults = sampling_defaults(self.spec, self.model.rules)
        ordered = ordered_rows(self.manifest, self._wanted, defaults, self.model.rules.defaults)
        priorities = self.manifest.priorities() if self.manifest.has_priorities else None
        rows = (
            PendingRow(
                request=resolving.request(row),
                attempt=int(self.records.attempts[place]) + 1,
                passthrough=dict(row.extra),
                invalidated=bool(self.records.invalidated[place]),
                priority=0 if priorities is None else int(priorities[place]),
            )
            for place, row in ordered
        )
        if self.before is None:
            return rows
        return mark_maybe_stored(rows, max_unrecorded(self.before.topology), self.model.rules.declared)


def open_run(spec: RunSpec) -> tuple[RunSpec, Storage]:
    """Check what a spec alone shows to be wrong, and open its output; nothing is asked of a storage.

    Args:
        spec: What the run is.

    Returns:
        The spec with absolute paths, and the output.

    Raises:
        Refused: Names the key, and what is allowed.
    """
    check_sampling(spec)
    check_secrets(spec)
    output = open_writable(spec.output.uri)
    return with_absolute_paths(spec, output), output


def make_plan(
    spec: RunSpec, output: Storage, *, device: str, engine: str, lookup: LookupPolicy = LookupPolicy()
) -> Plan:
    """Check a run from end to end without a model: checkpoint, manifest, every row, output.

    Args:
        spec: What the run is, as `open_run` gives it.
        output: Its output, likewise.
        device: `cpu` or `ascend`.
        engine: Module name of what renders.
        lookup: How rows are looked up in the ledger.

    Raises:
        Refused: Names the file, row, column or key, and what is allowed.
    """
    check_outside_manifest(spec, output)
    before = read_previous_run(output)
    if before is not None:
        spec = with_previous_revisions(spec, before)
    model = get_engine(engine).open_model(spec.model, device, spec.topology.ring)
    model.rules.check_defaults(spec.sampling)
    manifest = open_run_manifest(spec, model.rules)
    defaults = sampling_defaults(spec, model.rules)
    row_loras = RowLoras.of_run(model, spec)
    try:
        report = check(manifest, defaults=defaults, resolve=row_loras.resolve)
        identity = identity_of(model, spec, row_loras.digests)
        check_bad_rows(spec, report)
        ledger = read_ledger(output)
        if before is not None:
            check_same_run(spec, before, model, ledger, manifest)
        resolver = RowResolver(model.rules, spec.seed, identity, row_loras.resolve)
        records = find_done(manifest, defaults, resolver, ledger, spec.manifest.retry, report.bad, lookup)
        passthrough = with_earlier_types(output, manifest.extra_schema)
    except OSError as error:
        raise Refused(str(error)) from None
    return Plan(
        spec=spec,
        device=device,
        model=model,
        row_loras=row_loras,
        identity=identity,
        manifest=manifest,
        output=output,
        records=records,
        reasons=report.reasons,
        newest=ledger.newest,
        failures=ledger.failures,
        passthrough=passthrough,
        before=before,
    )
