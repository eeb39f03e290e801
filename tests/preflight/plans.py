"""Plans of runs with the fake engine, and their ledgers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from tests.fake_engine import FAKE_ENGINE
from vidgen_dist.ledger import LedgerEntry, LedgerWriter
from vidgen_dist.output.pending_row import PendingRow
from vidgen_dist.output.resume import LookupPolicy
from vidgen_dist.output.run_file import write_run_file
from vidgen_dist.preflight.plan import Plan, make_plan, open_run
from vidgen_dist.spec import RunSpec

MakeSpec = Callable[..., RunSpec]
MakeManifest = Callable[..., str]


def plan_of(spec: RunSpec, lookup: LookupPolicy = LookupPolicy()) -> Plan:
    """The plan of a run with the fake engine."""
    return make_plan(*open_run(spec), device="cpu", engine=FAKE_ENGINE, lookup=lookup)


def record(plan: Plan) -> None:
    """Write the run.yaml of a run, as if it had begun."""
    write_run_file(plan.output, plan.recorded)


def rows_of(plan: Plan) -> list[PendingRow]:
    """The rows that are to be rendered."""
    return list(plan.rows())


def enter(
    plan: Plan,
    rows: list[PendingRow],
    status: str = "done",
    media: dict[str, str] | None = None,
    error: str = "Error",
) -> None:
    """Ledger entries for rows, as if they had been rendered."""
    if not plan.output.exists("run.yaml"):
        record(plan)
    with LedgerWriter(plan.output, "test") as writer:
        for row in rows:
            writer.append(
                LedgerEntry(
                    id=row.id,
                    status=status,
                    fingerprint=plan.identity.fingerprint(row.request, media or {}),
                    attempt=row.attempt,
                    finished_at=datetime.now(UTC),
                    uri="somewhere" if status == "done" else None,
                    error_class=error if status == "failed" else None,
                )
            )
