"""A run with gangs: what they report becomes ledger entries, progress and messages."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter

from vidgen_dist.errors import INTERRUPTED
from vidgen_dist.output.ledger_committer import open_committer
from vidgen_dist.output.ledger_entries import RowAttempt, failed_entry
from vidgen_dist.output.pending_row import PendingRow
from vidgen_dist.output.resume_states import ResumeStates
from vidgen_dist.preflight.gang_choice import Gangs
from vidgen_dist.preflight.plan import Plan
from vidgen_dist.runtime.connection import RayFault
from vidgen_dist.runtime.driver.bad_rows import first_failures
from vidgen_dist.runtime.driver.context import RunContext
from vidgen_dist.runtime.driver.overview import Overview
from vidgen_dist.runtime.driver.result import (
    DEAD_LETTERS,
    DONE,
    SHOWN_FAILURES,
    RunResult,
    result_of,
)
from vidgen_dist.runtime.messages import Job, WorkerMessage
from vidgen_dist.runtime.scheduling.gang import Gang
from vidgen_dist.runtime.scheduling.launcher import Launcher
from vidgen_dist.runtime.scheduling.supervisor import RunStopped, Supervisor
from vidgen_dist.runtime.watchdog import limits_of
from vidgen_dist.spec import ModelOptions
from vidgen_dist.storage.retry_policy import RetryPolicy
from vidgen_dist.storage.uris import redact_message


class ActiveRun:
    """A run that renders; it listens to its supervisor.

    Args:
        context: The run.
        job: What workers get.
        gangs: How many gangs, with which degrees.
        overview: `status.json` and metrics.
        newest: See `LedgerCommitter`.
    """

    def __init__(self, context: RunContext, job: Job, gangs: Gangs, overview: Overview, newest: int) -> None:
        plan, policies = context.plan, context.policies
        self._plan = plan
        self._job = job
        self._lease = context.lease
        self._interrupts = context.interrupts
        self._progress = context.progress
        self._overview = overview
        self._committer = open_committer(
            plan.output, job.passthrough, context.lease, newest, policies.commit, policies.retries
        )
        self._resume_states = ResumeStates(
            plan.output, lambda event: self._progress.print_line(event.message)
        )
        self._pending = plan.pending
        self._failures: list[str] = []
        self._bad = first_failures(plan, SHOWN_FAILURES)
        self._recovered = 0
        self._lora_changes = 0
        self._sent: Counter[str] = Counter()
        self._senders = 0
        self._announced = 0
        self._supervisor = Supervisor(
            launcher=Launcher(job, gangs.replicas),
            replicas=gangs.replicas,
            run=context.lease.run,
            rows=plan.rows(),
            pending=self._pending,
            shard_size=plan.spec.topology.shard_size,
            max_attempts=job.max_attempts,
            limits=limits_of(plan.spec.topology.watchdog, plan.device),
            listener=self,
            interrupts=context.interrupts,
            policy=policies.supervisor,
        )

    def run(self) -> RunResult:
        """Render until the end.

        Raises:
            Refused: The model cannot be loaded.
        """
        message = ""
        try:
            while time.monotonic() < self._lease.settled and not self._interrupts.level:
                time.sleep(0.1)
            self._supervisor.work()
        except (RunStopped, RayFault) as error:
            message = f"the run stopped: {error}; run it again to go on"
        finally:
            self._progress.tick(0)
            self._committer.close()
        if self._committer.fault and not message:
            fault = self._committer.fault
            message = f"the run stopped: the output cannot be written: {fault}; run it again to go on"
        return self._result(message)

    def _result(self, message: str) -> RunResult:
        # Bad rows come last: they were shown at the start.
        failures = (*self._failures, *self._bad)[:SHOWN_FAILURES]
        result = dataclasses.replace(
            result_of(self._plan, self._progress, failures, DONE, message),
            done=self._committer.done,
            failed=self._plan.bad + self._committer.failed,
            sent={what: count / self._senders for what, count in self._sent.items()},
            recovered=self._recovered,
            lora_changes=self._lora_changes,
        )
        status = DEAD_LETTERS if self._progress.failed or message else DONE
        if self._lease.lost and result.pending:
            status = DEAD_LETTERS
            message = f"the run stopped: {self._lease.lost} took over this output; what is finished is kept"
        elif self._interrupts.level and result.pending:
            status = INTERRUPTED
            message = message or "interrupted; run it again to go on"
        return dataclasses.replace(result, exit_status=status, message=message)

    # What the supervisor reports

    def row_progressed(self, gang: Gang, message: WorkerMessage) -> None:
        self._overview.update_row(gang, message)

    def row_ended(self, message: WorkerMessage) -> None:
        assert message.entry is not None, "a row that ends has a ledger entry"
        self._committer.enter(message.entry)
        self._progress.add(message.error if message.kind == "failed" else None)
        self._recovered += message.recovered
        self._lora_changes += message.loras_changed
        if message.sent:
            self._sent.update(message.sent)
            self._senders += 1
        if message.kind == "failed":
            if len(self._failures) < SHOWN_FAILURES:
                self._failures.append(f"{message.id}: {message.error}: {message.message}")
            self._end_if_too_many_failed()

    def _end_if_too_many_failed(self) -> None:
        faults, bad = self._plan.spec.faults, self._plan.bad
        failed = self._progress.failed - bad
        tried = self._progress.done + failed
        if failed > faults.failures_allowed(tried, self._pending, bad):
            beside = f" beside {bad:,} bad ones" if bad else ""
            why = f"{failed:,} of {tried:,} rows failed{beside}, faults.max_failures is {faults.max_failures}"
            self._supervisor.end(RunStopped(why))

    def row_given_up(self, row: PendingRow, error: str, message: str) -> None:
        fingerprint = self._plan.identity.fingerprint(row.request, {})
        entry = failed_entry(RowAttempt(self._job.model, "driver", row, fingerprint), error, message)
        self.row_ended(WorkerMessage("failed", row.id, error, message, entry=entry))
        self._overview.count_given_up(error)
        if self._job.output_options.checkpoint_every is not None:
            self._resume_states.remove(row.id)

    def gang_lost(self, gang: Gang, why: str) -> None:
        self._progress.print_line(redact_message(f"gang {gang.name} is lost: {why}"))
        self._overview.count_lost_gang()

    def output_fault(self) -> str:
        return self._committer.stuck

    def tick(self, ready: int, waiting: str) -> None:
        if self._lease.lost:
            # Another run renders these rows.
            self._interrupts.stop()
        if self._interrupts.level > self._announced:
            self._announced = self._interrupts.level
            self._progress.print_line(self._describe_interrupt())
        self._progress.tick(ready, waiting)
        self._overview.refresh(self._supervisor.gangs)

    def _describe_interrupt(self) -> str:
        """What the run does after the interrupt, for the person who caused it."""
        if self._interrupts.level > 1:
            return "stopping at once; what is finished is kept"
        within = f", within {self._plan.spec.faults.grace}" if self._interrupts.preempted else ""
        return f"finishing the rows that are being rendered{within}; Ctrl-C stops at once"


def job_of(plan: Plan, model: ModelOptions, gangs: Gangs, engine: str, retries: RetryPolicy) -> Job:
    """What the workers of a run get.

    Args:
        plan: The run.
        model: The checkpoint, its revision a commit.
        gangs: The run's gangs.
        engine: Module name of the engine.
        retries: How often they repeat a request that the storage has refused.
    """
    return Job(
        engine=engine,
        model=model,
        device=plan.device,
        output=plan.output,
        output_options=plan.spec.output,
        identity=plan.identity,
        passthrough=plan.passthrough,
        degrees=gangs.degrees,
        max_attempts=plan.spec.faults.max_attempts,
        patience=limits_of(plan.spec.topology.watchdog, plan.device)["encode"],
        retries=retries,
    )
