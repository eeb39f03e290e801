"""Bad rows as dead letters: with `faults.bad_rows: fail`, they are entered before anything is rendered.

A bad row's values show that it cannot be rendered, so no gang needs to try it. It has no usual fingerprint;
its entry has the digest of the row's values instead. While the values stay the same, the row is not entered
again, whatever else of the run has changed; once it is corrected, it is rendered. In memory, a bad row is its
index in the manifest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from vidgen_dist import ledger
from vidgen_dist.ledger import LedgerEntry
from vidgen_dist.output.lease import Lease
from vidgen_dist.output.ledger_committer import open_committer
from vidgen_dist.preflight.plan import Plan
from vidgen_dist.runtime.driver.policies import RunPolicies
from vidgen_dist.runtime.interrupts import Interrupts
from vidgen_dist.storage.uris import redact_message

ERROR = "BadRow"
"""The error class of their entries."""

SHOWN_REASONS = 20


@dataclass(frozen=True)
class BadRowsResult:
    """How many of a run's bad rows are dead letters.

    Args:
        failed: Dead letters in the ledger, of this run or an earlier one.
        newest: When the last attempt in the ledger ended, in microseconds since 1970.
        fault: Why the ledger cannot be written; empty if it can.
    """

    failed: int
    newest: int
    fault: str = ""


def describe_bad_rows(plan: Plan) -> Iterator[str]:
    """Lines that count the manifest's bad rows by column and reason."""
    if not plan.bad:
        return
    count, before = (int(np.count_nonzero(rows)) for rows in (plan.records.bad, plan.records.entered))
    known = f" ({before:,} of them are dead letters already)" if before else ""
    yield f"{count:,} of {plan.manifest.num_rows:,} rows cannot be rendered{known}:"
    yield from (f"  {reason}" for reason in plan.reasons[:SHOWN_REASONS])
    if len(plan.reasons) > SHOWN_REASONS:
        yield f"  and {len(plan.reasons) - SHOWN_REASONS:,} more reasons"
    yield "  `vidgen manifest check --export` lists them all"


def first_failures(plan: Plan, most: int) -> tuple[str, ...]:
    """The first of a run's bad rows, each in a line like other failures. Raises as `Plan.bad_rows`."""
    lines: list[str] = []
    for _, bad in plan.bad_rows(plan.records.chosen & plan.records.bad):
        for problem in bad.problems(slice(most - len(lines))):
            lines.append(f"{problem.id}: {ERROR}: {redact_message(problem.message)}")
        if len(lines) == most:
            break
    return tuple(lines)


def enter_bad_rows(
    plan: Plan,
    lease: Lease,
    interrupts: Interrupts,
    print_line: Callable[[str], None],
    policies: RunPolicies = RunPolicies(),
) -> BadRowsResult:
    """Enter all bad rows that are not dead letters yet, unless a signal asks the run to end.

    Args:
        plan: The run.
        lease: The right to enter rows.
        interrupts: When to end.
        print_line: Called with a line for people if there are rows to enter.
        policies: How long to wait, and how often to try.

    Raises:
        Refused: The manifest cannot be read, or was changed.
    """
    mine = plan.records.chosen & plan.records.bad
    before = int(np.count_nonzero(mine & plan.records.entered))
    left = mine & ~plan.records.entered
    if not left.any():
        return BadRowsResult(before, plan.newest)
    committer = open_committer(
        plan.output, plan.passthrough, lease, plan.newest, policies.commit, policies.retries
    )
    print_line(f"entering {int(np.count_nonzero(left)):,} dead letters")
    try:
        for entry in _entries(plan, left):
            committer.enter(entry)
            while committer.waiting >= policies.commit.max_waiting and not committer.stuck:
                time.sleep(0.01)
            if interrupts.level or committer.stuck or lease.lost:
                break
    finally:
        committer.close()
    return BadRowsResult(before + committer.failed, committer.newest, committer.fault)


def _entries(plan: Plan, wanted: np.ndarray) -> Iterator[LedgerEntry]:
    model = plan.decided.model
    for places, bad in plan.bad_rows(wanted):
        batch, mask = bad.batch, np.zeros(len(bad.batch), np.bool_)
        mask[bad.places] = True
        messages = bad.fault_texts("message").to_pylist()
        redacted = _redacted(set(messages))
        rows = zip(
            batch.ids.filter(pa.array(mask)).to_pylist(),
            batch.digests(mask),
            plan.records.attempts[places[bad.places]].tolist(),
            messages,
            batch.extras(bad.places),
            strict=True,
        )
        for row_id, digest, attempts, message, extra in rows:
            yield LedgerEntry(
                id=row_id,
                status=ledger.FAILED,
                fingerprint=digest,
                attempt=attempts + 1,
                finished_at=datetime.now(UTC),
                model=model.id,
                revision=model.revision,
                worker="driver",
                error_class=ERROR,
                error_message=redacted[message],
                extra=extra,
            )


def _redacted(messages: set[str]) -> dict[str, str]:
    """Messages -> their redacted text; thousands of them take about as long as one."""
    between = "\n\0\n"
    several = list(messages)
    return dict(zip(several, redact_message(between.join(several)).split(between), strict=True))
