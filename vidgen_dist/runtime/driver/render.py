"""Render a run: plan it, take the output's lease, enter bad rows, and let gangs render the others."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from rich.console import Console

from vidgen_dist import engine as engines
from vidgen_dist.engine import get_engine
from vidgen_dist.errors import INTERRUPTED, Refused, listed
from vidgen_dist.manifest import describe_unknown
from vidgen_dist.observability.progress import RunProgress
from vidgen_dist.output.lease import Lease, acquire, living_holder
from vidgen_dist.output.manifest_copy import keep_manifest
from vidgen_dist.output.resume import error_class_of
from vidgen_dist.output.resume_states import clear
from vidgen_dist.output.run_file import write_run_file
from vidgen_dist.output.status_file import RunStatus, StatusFile, digest_of_counted
from vidgen_dist.output_layout import LEDGER_FOLDER, RESUME_STATES_FOLDER, RUN_FILE
from vidgen_dist.preflight.gang_choice import settle_gangs
from vidgen_dist.preflight.plan import Plan, make_plan, open_run
from vidgen_dist.runtime.connection import capacity, choose_device, connected, refuse_ray_faults
from vidgen_dist.runtime.driver.bad_rows import ERROR as BAD_ROW
from vidgen_dist.runtime.driver.bad_rows import (
    BadRowsResult,
    describe_bad_rows,
    enter_bad_rows,
    first_failures,
)
from vidgen_dist.runtime.driver.context import RunContext
from vidgen_dist.runtime.driver.policies import RunPolicies
from vidgen_dist.runtime.driver.result import (
    DEAD_LETTERS,
    DONE,
    SHOWN_FAILURES,
    RunResult,
    result_of,
    state_of,
)
from vidgen_dist.runtime.interrupts import Interrupts
from vidgen_dist.spec import AUTO, RunSpec, parse_seconds
from vidgen_dist.storage.folder import Storage
from vidgen_dist.storage.uris import redact_message


def render(
    spec: RunSpec, console: Console, *, engine: str | None = None, policies: RunPolicies = RunPolicies()
) -> RunResult:
    """Render all rows that are not done yet.

    Args:
        spec: The run.
        console: Where progress is shown.
        engine: Module name of the engine; by default the engine of the models. Tests have their own.
        policies: How long to wait, and how often to try.

    Raises:
        Refused: Before any model loads, a manifest, spec, checkpoint or output is wrong: names the file, row,
            column or key.
        KeyboardInterrupt: Interrupted before anything was started.
    """
    engine = engine or engines.ENGINE
    run = uuid.uuid4().hex[:12]
    device = choose_device(spec.topology, policies.connection)
    grace = parse_seconds(spec.faults.grace)
    with (
        Interrupts(grace) as interrupts,
        contextlib.ExitStack() as early,
        _planned(spec, device, engine, run, console, policies, early) as (plan, lease),
    ):
        progress = RunProgress(console, total=plan.total, done=plan.done, policy=policies.progress)
        for name in plan.manifest.unknown_columns:
            progress.print_line(describe_unknown(name, plan.manifest.row_schema.fields))
        for line in describe_bad_rows(plan):
            progress.print_line(line)
        run_file = write_run_file(plan.output, _recorded(plan))
        # If rows were chosen, the counts are not those of the manifest.
        counted = "" if plan.spec.manifest.retry else digest_of_counted(run_file, plan.manifest)
        # From here on there are rows to be finished, and soon processes to be ended.
        interrupts.count_only()
        context = RunContext(plan, lease, interrupts, progress, counted, policies)
        entered = enter_bad_rows(plan, lease, interrupts, progress.print_line, policies)
        if entered.failed:
            progress.add(BAD_ROW, entered.failed)
        result = _result_without_rendering(context, entered)
        if result is None:
            # While this run has the lease, its workers end.
            with early.pop_all():
                result = _render_pending(context, engine, entered.newest)
        elif (counted or result.pending) and not lease.lost:
            _write_status(context, result)
        if not result.pending and not lease.lost:
            _clear_resume_states(plan, console)
        return result


def _render_pending(context: RunContext, engine: str, newest: int) -> RunResult:
    """Connect to Ray, and let gangs render the pending rows; raises as `render`.

    Args:
        context: The run.
        engine: Module name of the engine.
        newest: When the last attempt in the ledger ended, in microseconds since 1970.
    """
    plan, lease, progress, policies = context.plan, context.lease, context.progress, context.policies
    spec = plan.decided
    with progress, connected(spec.topology, policies.connection):
        # They load Ray, which is not needed to find that there is nothing to do, and which reads settings
        # that the connection makes.
        from vidgen_dist.runtime.driver.active_run import ActiveRun, job_of
        from vidgen_dist.runtime.driver.overview import Overview

        with refuse_ray_faults():
            gangs = settle_gangs(spec, capacity(), device=plan.device, engine=engine, rows=plan.pending)
        if spec.topology.replicas == AUTO:
            progress.print_line(str(gangs))
        progress.print_line(f"run {lease.run}")
        fields = plan.model.rules.declared
        with Overview(
            plan.output, lease, spec.model.id, progress, context.counted, fields, policies
        ) as overview:
            job = job_of(plan, spec.model, gangs, engine, policies.retries)
            with refuse_ray_faults():
                run = ActiveRun(context, job, gangs, overview, newest)
            result = run.run()
            overview.end(state_of(result), result.message)
        return result


def _result_without_rendering(context: RunContext, entered: BadRowsResult) -> RunResult | None:
    """The result of a run that renders nothing; None if it must render."""
    plan, lease, progress = context.plan, context.lease, context.progress
    status = DEAD_LETTERS if plan.bad else DONE
    if lease.lost:
        message = f"the run stopped: {lease.lost} took over this output; what is finished is kept"
    elif entered.fault:
        message = f"the run stopped: the output cannot be written: {entered.fault}; run it again to go on"
    elif context.interrupts.level and progress.left:
        status, message = INTERRUPTED, "interrupted; run it again to go on"
    elif plan.too_many_are_bad:
        many = f"{plan.bad:,} of {plan.bad + plan.pending:,} rows cannot be rendered"
        message = f"the run stopped: {many}, faults.max_failures is {plan.spec.faults.max_failures}"
    elif not plan.pending:
        message = f"nothing to render: {_why_nothing(plan)}"
    else:
        return None
    return result_of(plan, progress, first_failures(plan, SHOWN_FAILURES), status, message)


def _write_status(context: RunContext, result: RunResult) -> None:
    """Write `status.json` of a run that renders nothing: the old file may be about other settings."""
    plan, progress, now = context.plan, context.progress, datetime.now(UTC)
    status = RunStatus(
        run=context.lease.run,
        state=state_of(result),
        since=now,
        updated=now,
        total=plan.total,
        done=plan.done,
        failed=progress.failed,
        pending=progress.left,
        failures=dict(progress.failures),
        counted=context.counted,
        message=redact_message(result.message) if progress.left else "",
    )
    StatusFile(plan.output, context.policies.status).close(status)


def _why_nothing(plan: Plan) -> str:
    """Why there is nothing to render."""
    retry = plan.spec.manifest.retry
    if not plan.manifest.num_rows:
        return "the manifest has no rows"
    if plan.bad:
        return f"{plan.done:,} rows are done, {plan.bad:,} cannot be rendered"
    if retry is not None:
        error_class = error_class_of(retry)
        others = listed(list(plan.failures))
        told = "no row has failed" + (f" with {error_class}" if error_class else "")
        return f"{told}; rows have failed with {others}" if error_class and others else told
    return f"all {plan.total:,} rows are done"


def _shown(console: Console, what: str) -> contextlib.AbstractContextManager[object]:
    """On a terminal, say during the block what is being done."""
    return console.status(what) if console.is_interactive else contextlib.nullcontext()


@contextlib.contextmanager
def _planned(
    spec: RunSpec,
    device: str,
    engine: str,
    run: str,
    console: Console,
    policies: RunPolicies,
    early: contextlib.ExitStack,
) -> Iterator[tuple[Plan, Lease]]:
    """Plan the run and take the output's lease; what is refused here leaves no trace in the output.

    A run that renders connects to Ray while its model is checked: both take seconds. The connection ends with
    the stack `early`.

    Gangs that do not fit on the cluster, and weights of a hub id that do not fit the model and were not on
    this machine, are refused later, when the output has a `run.yaml`.
    """
    with _shown(console, "checking manifest, checkpoint and output"):
        spec, output = open_run(spec)
        before = _state_of_output(output)
        plan = make_plan(spec, output, device=device, engine=engine)
        if plan.pending and not plan.too_many_are_bad:
            finish_check = _start_check(plan, engine)
            if not _is_taken(output, policies):
                early.enter_context(connected(plan.decided.topology, policies.connection))
            finish_check()

    def print_line(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    with acquire(output, run, print_line=print_line, policy=policies.lease) as lease:
        if _state_of_output(output) != before:
            # Another run was at work until a moment ago.
            plan = make_plan(spec, output, device=device, engine=engine)
        yield plan, lease


def _start_check(plan: Plan, engine: str) -> Callable[[], None]:
    """Begin to check a run's model, see `engine.start_check`."""
    model = plan.decided.model
    if plan.spec.faults.bad_rows != "refuse":
        # Rows whose LoRA does not fit become dead letters.
        model = model.model_copy(update={"row_loras": None})
    return get_engine(engine).start_check(model)


def _is_taken(output: Storage, policies: RunPolicies) -> bool:
    """Whether another run seems to be at work on an output, so that this one will be refused."""
    try:
        return living_holder(output, policies.lease) is not None
    except OSError as error:
        raise Refused(str(error)) from None


def _recorded(plan: Plan) -> RunSpec:
    """The spec as `run.yaml` keeps it; a manifest that is to be kept is copied first."""
    if not plan.spec.manifest.keep:
        return plan.recorded
    return plan.recorded.override({"manifest.uri": keep_manifest(plan.output, plan.manifest)})


def _state_of_output(output: Storage) -> tuple[bool, list[str]]:
    """The parts of an output that a plan depends on and a run changes."""
    try:
        return output.exists(RUN_FILE), output.list(LEDGER_FOLDER)
    except OSError as error:
        raise Refused(str(error)) from None


def _clear_resume_states(plan: Plan, console: Console) -> None:
    """Remove the resume states that killed workers have left of rows that are done."""
    # A run of chosen rows does not know about the others.
    if plan.spec.manifest.retry is not None:
        return
    try:
        clear(plan.output)
    except OSError as error:
        line = f"{RESUME_STATES_FOLDER}/ is not needed any more, and cannot be emptied: {error}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
