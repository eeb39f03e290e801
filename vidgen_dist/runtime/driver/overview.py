"""The overview of a run for people who do not see its terminal: `status.json`, and metrics."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import TracebackType

from vidgen_dist.errors import shortened
from vidgen_dist.observability.progress import RunProgress
from vidgen_dist.observability.stragglers import RowTimes
from vidgen_dist.output.lease import Lease
from vidgen_dist.output.status_file import (
    MOST_GANGS,
    MOST_OF_ID,
    GangStatus,
    RunStatus,
    State,
    StatusFile,
)
from vidgen_dist.request import FIELDS, Field
from vidgen_dist.runtime.driver.policies import RunPolicies
from vidgen_dist.runtime.messages import WorkerMessage
from vidgen_dist.runtime.metrics import RunMetrics
from vidgen_dist.runtime.scheduling.gang import Gang
from vidgen_dist.storage.folder import Storage
from vidgen_dist.storage.uris import redact_message


class Overview:
    """Writes the overview of a run until the block ends.

    Args:
        output: The run's output.
        lease: Its lease; once it is lost, another run writes the output's overview.
        model: Id of the checkpoint.
        progress: The run's counts.
        counted: Digest of what is counted, see `RunStatus`.
        fields: The declarations of rows' fields.
        policies: How often things are written, and what is a straggler.
    """

    def __init__(
        self,
        output: Storage,
        lease: Lease,
        model: str,
        progress: RunProgress,
        counted: str = "",
        fields: Mapping[str, Field] = FIELDS,
        policies: RunPolicies = RunPolicies(),
    ) -> None:
        self._lease = lease
        self._progress = progress
        self._counted = counted
        self._since = datetime.now(UTC)
        self._policy = policies.status
        self._times = RowTimes(fields, policies.stragglers)
        self._metrics = RunMetrics(model)
        self._file = StatusFile(output, policies.status)
        self._next = -float("inf")
        self._ended = False

    def __enter__(self) -> Overview:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not self._ended:
            self.end("stopped", f"{type(error).__name__}: {error}")

    def update_row(self, gang: Gang, message: WorkerMessage) -> None:
        """Take a gang's message about one of its rows, which it still has."""
        assert message.id is not None
        now = time.monotonic()
        if message.kind == "started":
            self._times.start(gang.name, gang.in_flight.rows[message.id].row.request, now)
        elif message.kind == "rendered":
            self._times.render(gang.name, message.id, now)
        else:
            # The time of a recovered video, which was only found, does not count, either.
            self._times.end(gang.name, message.id, done=message.kind == "done" and not message.recovered)

    def count_lost_gang(self) -> None:
        """Count a gang that is lost."""
        self._metrics.count_lost_gang()

    def count_given_up(self, error: str) -> None:
        """Count a row that is given up because of the gangs that it killed."""
        self._metrics.count_given_up(error)

    def refresh(self, gangs: Sequence[Gang]) -> None:
        """Bring the overview up to date, if it is time to.

        Args:
            gangs: All gangs.
        """
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._policy.update_seconds
        self._times.keep({gang.name for gang in gangs})
        status = self._status("running", "", gangs)
        self._update_metrics(status)
        if self._file.due and self._lease.lost is None:
            self._file.put(status)

    def end(self, state: State, message: str) -> None:
        """Record how the run ended, and why."""
        self._ended = True
        self._times.keep(())
        status = self._status(state, message, ())
        self._update_metrics(status)
        self._file.close(status if self._lease.lost is None else None)

    def _update_metrics(self, status: RunStatus) -> None:
        self._metrics.set(
            pending=status.pending,
            seconds_left=status.seconds_left if status.state == "running" else 0.0,
            gangs=sum(status.gang_states.values()),
            ready=sum(status.gang_states.get(state, 0) for state in ("rendering", "idle", "stopping")),
            stragglers=len(status.slow_rows) + len(status.slow_gangs),
        )

    def _status(self, state: State, message: str, gangs: Sequence[Gang]) -> RunStatus:
        progress, now, updated = self._progress, time.monotonic(), datetime.now(UTC)
        at_work = state == "running"
        pace = progress.recent_pace() if at_work else progress.videos_per_minute()
        all_gangs = [self._gang_status(gang, now, updated) for gang in gangs]
        slow_rows = [
            replace(slow, row=shortened(slow.row, MOST_OF_ID)) for slow in self._times.slow_rows(now)
        ]
        return RunStatus(
            run=self._lease.run,
            state=state,
            since=self._since,
            updated=updated,
            refresh_seconds=self._file.seconds,
            total=progress.total,
            done=progress.before + progress.done,
            failed=progress.failed,
            pending=progress.left,
            failures=dict(progress.failures.most_common()),
            videos_per_minute=pace or None,
            seconds_left=60 * progress.left / pace if pace and at_work else None,
            counted=self._counted,
            message=redact_message(message),
            gang_states=dict(Counter(gang.state for gang in all_gangs)),
            gangs=tuple(all_gangs[:MOST_GANGS]),
            slow_rows=tuple(slow_rows[:MOST_GANGS]),
            slow_gangs=tuple(self._times.slow_gangs()[:MOST_GANGS]),
        )

    def _gang_status(self, gang: Gang, now: float, updated: datetime) -> GangStatus:
        started = self._times.row_in_model(gang.name)
        if gang.stopping:
            state = "stopping"
        elif gang.ready:
            state = "rendering" if started else "idle"
        else:
            state = "loading" if gang.is_placed else "waiting"
        done, steps = gang.leader.steps or (None, None)
        return GangStatus(
            gang=gang.name,
            replica=gang.replica,
            state=state,
            row=shortened(started.row, MOST_OF_ID) if started else None,
            since=updated - timedelta(seconds=now - started.at) if started else None,
            stage=next((stage for stage in gang.leader.silence if stage != "write"), None),
            step=done,
            steps=steps,
        )
