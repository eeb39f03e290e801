"""The driver: plan, crew and progress put together."""

from __future__ import annotations

import contextlib
import dataclasses
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import Console

from vidgen_dist import engine as engines
from vidgen_dist import ledger
from vidgen_dist.engine import get_engine
from vidgen_dist.errors import Refused
from vidgen_dist.manifest import describe_unknown
from vidgen_dist.observability.progress import RunProgress
from vidgen_dist.output import lease as leases
from vidgen_dist.output.lease import Lease, acquire
from vidgen_dist.output.ledger_committer import open_committer
from vidgen_dist.output.ledger_entries import failed_entry
from vidgen_dist.output.pending_row import PendingRow
from vidgen_dist.output.resume import error_class_of
from vidgen_dist.output.resume_states import FOLDER, ResumeStates, clear
from vidgen_dist.output.status_file import RunStatus, State, StatusFile, digest_of_counted
from vidgen_dist.preflight.plan import RUN_FILE, Plan, make_plan, write_run_file
from vidgen_dist.preflight.topology import Gangs, settle_gangs
from vidgen_dist.runtime.connection import RayFault, before_start, capacity, choose_device, connected
from vidgen_dist.runtime.driver.bad_rows import ERROR as BAD_ROW
from vidgen_dist.runtime.driver.bad_rows import (
    BadRowsResult,
    describe_bad_rows,
    enter_bad_rows,
    first_failures,
)
from vidgen_dist.runtime.interrupts import Interrupts
from vidgen_dist.runtime.messages import Job, WorkerMessage
from vidgen_dist.runtime.watchdog import limits_of
from vidgen_dist.spec import AUTO, ModelOptions, RunSpec, parse_seconds
from vidgen_dist.storage.folder import Storage, open_storage
from vidgen_dist.storage.uris import redact_message

if TYPE_CHECKING:
    from vidgen_dist.runtime.driver.overview import Overview
    from vidgen_dist.runtime.scheduling.gang import Gang

DONE, DEAD_LETTERS, INTERRUPTED = 0, 1, 130

SHOWN_FAILURES = 10


@dataclass(frozen=True)
class RunResult:
    """What became of a run.

    Args:
        total: Rows of the manifest.
        done_before: Rows that were done before the run.
        done: Rows that it did.
        failed: Rows that it gave up on.
        failures: The first of them, each in a line.
        adopted: Of the rows that it did, those whose videos were there, of a run or a gang that was killed.
        videos, ledger: URIs of the folders.
        videos_per_minute: From the first loaded model to the end.
        exit_status: 0 all rows done, 1 some failed or the run could not go on, 130 interrupted.
        message: What else there is to say.
        sent: Bytes that the first rank of a gang sent to the others, a video, by purpose.
    """

    total: int
    done_before: int
    done: int
    failed: int
    failures: tuple[str, ...]
    videos: str
    ledger: str
    videos_per_minute: float
    exit_status: int
    message: str = ""
    sent: Mapping[str, float] = field(default_factory=dict)
    recovered: int = 0

    @property
    def pending(self) -> int:
        """Rows that are neither done nor given up."""
        return self.total - self.done_before - self.done - self.failed

    def lines(self) -> list[tuple[str, str]]:
        """What a person wants to know of it: name and value."""
        before = f" ({self.done_before:,} of them before)" if self.done_before else ""
        lines = [("done", f"{self.done_before + self.done:,}{before}"), ("failed", f"{self.failed:,}")]
        if self.recovered:
            lines.append(
                ("adopted", f"{self.recovered:,} finished videos of a run or a gang that was killed")
            )
        if self.pending:
            lines.append(("pending", f"{self.pending:,}"))
        if self.videos_per_minute:
            lines.append(("pace", f"{self.videos_per_minute:.1f} videos/min"))
        if self.sent:
            parts = sorted(self.sent.items(), key=lambda part: -part[1])
            by_purpose = ", ".join(f"{what} {_size(count)}" for what, count in parts)
            lines.append(("sent", f"{_size(sum(self.sent.values()))} a video by rank 0: {by_purpose}"))
        return [*lines, ("videos", self.videos), ("ledger", self.ledger)]


def render(spec: RunSpec, console: Console, *, engine: str | None = None) -> RunResult:
    """Render what is not done yet.

    Args:
        spec: What the run is.
        console: Where progress goes.
        engine: Module name of what renders; by default the models. Tests have one of their own.

    Raises:
        Refused: Before any model loads: a manifest, spec, checkpoint or output that cannot be. Names the
            file, row, column or key.
        KeyboardInterrupt: Interrupted before anything was started.
    """
    engine = engine or engines.ENGINE
    run = uuid.uuid4().hex[:12]
    device = choose_device(spec.topology)
    grace = parse_seconds(spec.faults.grace)
    with Interrupts(grace) as interrupts, _planned(spec, device, engine, run, console) as (plan, lease):
        for name in plan.manifest.unknown_columns:
            told = describe_unknown(name, plan.manifest.row_schema.fields)
            console.print(told, markup=False, highlight=False)
        progress = RunProgress(console, total=plan.total, done=plan.done)
        for line in describe_bad_rows(plan):
            progress.say(line)
        run_file = write_run_file(plan)
        # Of rows that were chosen, the counts are not those of the manifest.
        counted = "" if plan.spec.manifest.retry else digest_of_counted(run_file, plan.manifest)
        # From here on there are rows to be finished, and soon processes to be ended.
        interrupts.soften()
        entered = enter_bad_rows(plan, lease, interrupts, progress.say)
        if entered.failed:
            progress.add(BAD_ROW, entered.failed)
        if (ended := _end_before_start(plan, progress, entered, lease, interrupts)) is not None:
            if not ended.pending:
                _clear_scratch(plan, console)
            if (counted or ended.pending) and not lease.lost:
                _say_ended(plan, progress, run, counted, ended)
            return ended
        with progress, connected(spec.topology):
            decided = plan.decided
            with before_start():
                gangs = settle_gangs(decided, capacity(), device=device, engine=engine, rows=plan.pending)
            if spec.topology.replicas == AUTO:
                progress.say(str(gangs))
            progress.say(f"run {run}")
            # Ray is not needed to find that nothing is to be done.
            from vidgen_dist.runtime.driver.overview import Overview

            fields = plan.model.rules.declared
            with Overview(plan.output, lease, decided.model.id, progress, counted, fields) as overview:
                job = _job_of(plan, decided.model, gangs, engine)
                with before_start():
                    work = _Run(plan, job, gangs, lease, interrupts, progress, overview, entered.newest)
                result = work.run()
                overview.end(_end_of(result), result.message)
            if not result.pending and not lease.lost:
                _clear_scratch(plan, console)
            return result


def _end_before_start(
    plan: Plan, progress: RunProgress, entered: BadRowsResult, lease: Lease, interrupts: Interrupts
) -> RunResult | None:
    """What became of a run that renders nothing; None if it is to render."""
    status = DEAD_LETTERS if plan.bad else DONE
    if lease.lost:
        message = f"the run stopped: {lease.lost} took over this output; what is finished is kept"
    elif entered.fault:
        message = f"the run stopped: the output cannot be written: {entered.fault}; run it again to go on"
    elif interrupts.level and progress.left:
        status, message = INTERRUPTED, "interrupted; run it again to go on"
    elif plan.too_many_are_bad:
        many = f"{plan.bad:,} of {plan.bad + plan.pending:,} rows cannot be rendered"
        message = f"the run stopped: {many}, faults.max_failures is {plan.spec.faults.max_failures}"
    elif not plan.pending:
        message = f"nothing to render: {_why_nothing(plan)}"
    else:
        return None
    return _result(plan, progress, first_failures(plan, SHOWN_FAILURES), status, message)


def _say_ended(plan: Plan, progress: RunProgress, run: str, counted: str, ended: RunResult) -> None:
    """`status.json` of a run that renders nothing: the one before may have been of other settings."""
    now = datetime.now(UTC)
    status = RunStatus(
        run=run,
        state=_end_of(ended),
        since=now,
        updated=now,
        total=plan.total,
        done=plan.done,
        failed=progress.failed,
        pending=progress.left,
        failures=dict(progress.failures),
        counted=counted,
        message=redact_message(ended.message) if progress.left else "",
    )
    StatusFile(plan.output).close(status)


def _why_nothing(plan: Plan) -> str:
    """Why there is nothing to render."""
    retry = plan.spec.manifest.retry
    if not plan.manifest.num_rows:
        return "the manifest has no rows"
    if plan.bad:
        return f"{plan.done:,} rows are done, {plan.bad:,} cannot be rendered"
    if retry is not None:
        error_class = error_class_of(retry)
        return "no row has failed" + (f" with {error_class}" if error_class else "")
    return f"all {plan.total:,} rows are done"


@contextlib.contextmanager
def _planned(
    spec: RunSpec, device: str, engine: str, run: str, console: Console
) -> Iterator[tuple[Plan, Lease]]:
    """What is to be done, and the output's lease: what is refused here leaves no trace in the output.

    Refused later, with a `run.yaml` in the output, are gangs that have no room on the cluster, and weights of
    a hub id that are not the model's and were not on this machine.
    """
    output = open_storage(spec.output.uri)
    before = _standing(output)
    plan = make_plan(spec, device=device, engine=engine)
    if plan.pending and not plan.too_many_are_bad:
        get_engine(engine).check_models(plan.decided.model)

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    with acquire(output, run, say=say, interval=leases.INTERVAL_SECONDS) as lease:
        if _standing(output) != before:
            # Another run was at work until a moment ago.
            plan = make_plan(spec, device=device, engine=engine)
        yield plan, lease


def _standing(output: Storage) -> tuple[bool, list[str]]:
    """What a plan depends on and a run changes."""
    try:
        return output.exists(RUN_FILE), output.list(ledger.FOLDER)
    except OSError as error:
        raise Refused(str(error)) from None


class _Run:
    """A run under way: its crew, and what comes of its rows.

    Args:
        plan: What is to be rendered.
        job: What workers are told of it.
        gangs: Who renders it.
        lease: The right to enter rows.
        interrupts: Say when to end.
        progress: Told how the run stands.
        overview: Told of all that happens.
        newest: As `LedgerCommitter` takes it.
    """

    def __init__(
        self,
        plan: Plan,
        job: Job,
        gangs: Gangs,
        lease: Lease,
        interrupts: Interrupts,
        progress: RunProgress,
        overview: Overview,
        newest: int,
    ) -> None:
        from vidgen_dist.runtime.scheduling.launcher import Launcher
        from vidgen_dist.runtime.scheduling.supervisor import Supervisor

        self._plan = plan
        self._job = job
        self._lease = lease
        self._interrupts = interrupts
        self._progress = progress
        self._overview = overview
        self._committer = open_committer(plan.output, job.passthrough, lease, newest)
        self._resume_states = ResumeStates(plan.output, lambda event: progress.say(event.message))
        self._pending = plan.pending
        self._failures: list[str] = []
        self._bad = first_failures(plan, SHOWN_FAILURES)
        self._recovered = 0
        self._sent: Counter[str] = Counter()
        self._senders = 0
        self._told = 0
        self._supervisor = Supervisor(
            launcher=Launcher(job, gangs.replicas),
            replicas=gangs.replicas,
            run=lease.run,
            rows=plan.rows(),
            pending=self._pending,
            shard_size=plan.spec.topology.shard_size,
            max_attempts=job.max_attempts,
            limits=limits_of(plan.spec.topology.watchdog, plan.device),
            on_news=overview.hear,
            on_loss=self._lose,
            on_result=self._enter,
            give_up=self._give_up,
            stuck=lambda: self._committer.stuck,
            interrupts=interrupts,
            tick=self._tick,
        )

    def run(self) -> RunResult:
        """Render until the end; returns what became of it.

        Raises:
            Refused: The model cannot be loaded.
        """
        from vidgen_dist.runtime.scheduling.supervisor import RunStopped

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
        return self._outcome(message)

    def _outcome(self, message: str) -> RunResult:
        # Of bad rows there was word at the start.
        failures = (*self._failures, *self._bad)[:SHOWN_FAILURES]
        result = dataclasses.replace(
            _result(self._plan, self._progress, failures, DONE, message),
            done=self._committer.done,
            failed=self._plan.bad + self._committer.failed,
            sent={what: count / self._senders for what, count in self._sent.items()},
            recovered=self._recovered,
        )
        status = DEAD_LETTERS if self._progress.failed or message else DONE
        if self._lease.lost and result.pending:
            status = DEAD_LETTERS
            message = f"the run stopped: {self._lease.lost} took over this output; what is finished is kept"
        elif self._interrupts.level and result.pending:
            status = INTERRUPTED
            message = message or "interrupted; run it again to go on"
        return dataclasses.replace(result, exit_status=status, message=message)

    # What the crew tells of

    def _enter(self, event: WorkerMessage) -> None:
        """A row is done, or has failed."""
        progress = self._progress
        assert event.entry is not None, "whoever ends a row says what there is to say of it"
        self._committer.enter(event.entry)
        progress.add(event.error if event.kind == "failed" else None)
        self._recovered += event.recovered
        if event.sent:
            self._sent.update(event.sent)
            self._senders += 1
        if event.kind == "failed":
            if len(self._failures) < SHOWN_FAILURES:
                self._failures.append(f"{event.id}: {event.error}: {event.message}")
            self._end_if_too_many_failed()

    def _end_if_too_many_failed(self) -> None:
        from vidgen_dist.runtime.scheduling.supervisor import RunStopped

        faults, bad = self._plan.spec.faults, self._plan.bad
        failed = self._progress.failed - bad
        tried = self._progress.done + failed
        if failed > faults.failures_allowed(tried, self._pending, bad):
            beside = f" beside {bad:,} bad ones" if bad else ""
            why = f"{failed:,} of {tried:,} rows failed{beside}, faults.max_failures is {faults.max_failures}"
            self._supervisor.end(RunStopped(why))

    def _give_up(self, row: PendingRow, error: str, message: str) -> None:
        fingerprint = self._plan.identity.fingerprint(row.request, {})
        entry = failed_entry(self._job.model, "driver", row, fingerprint, error, message)
        self._enter(WorkerMessage("failed", row.id, error, message, entry=entry))
        self._overview.gave_up(error)
        if self._job.output_options.checkpoint_every is not None:
            self._resume_states.remove(row.id)

    def _lose(self, gang: Gang, why: str) -> None:
        self._progress.say(redact_message(f"gang {gang.name} is lost: {why}"))
        self._overview.lose()

    def _tick(self, ready: int, waiting: str) -> None:
        if self._lease.lost:
            # Another run renders these rows.
            self._interrupts.stop()
        if self._interrupts.level > self._told:
            self._told = self._interrupts.level
            self._progress.say(self._ending())
        self._progress.tick(ready, waiting)
        self._overview.refresh(self._supervisor.gangs)

    def _ending(self) -> str:
        """What a person is told who has interrupted the run."""
        if self._interrupts.level > 1:
            return "stopping at once; what is finished is kept"
        within = f", within {self._plan.spec.faults.grace}" if self._interrupts.preempted else ""
        return f"finishing the rows that are being rendered{within}; Ctrl-C stops at once"


def _job_of(plan: Plan, model: ModelOptions, gangs: Gangs, engine: str) -> Job:
    """What the workers of a run are told.

    Args:
        plan: The run.
        model: As all of them are to read it.
        gangs: What they are ranks of.
        engine: Module name of what renders.
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
    )


def _end_of(result: RunResult) -> State:
    """What `status.json` says of how a run ended."""
    if not result.pending:
        return "finished"
    return "interrupted" if result.exit_status == INTERRUPTED else "stopped"


def _clear_scratch(plan: Plan, console: Console) -> None:
    """Remove what killed workers have left of rows that are done."""
    # A run of chosen rows knows nothing of the others.
    if plan.spec.manifest.retry is not None:
        return
    try:
        clear(plan.output)
    except OSError as error:
        line = f"{FOLDER}/ is not needed any more, and cannot be emptied: {error}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _size(count: float) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count / 1e3:,.1f} kB"


def _result(
    plan: Plan, progress: RunProgress, failures: tuple[str, ...], exit_status: int, message: str
) -> RunResult:
    return RunResult(
        total=plan.total,
        done_before=plan.done,
        done=progress.done,
        failed=progress.failed,
        failures=failures,
        videos=plan.output.uri("videos"),
        ledger=plan.output.uri(ledger.FOLDER),
        videos_per_minute=progress.videos_per_minute(),
        exit_status=exit_status,
        message=message,
    )
