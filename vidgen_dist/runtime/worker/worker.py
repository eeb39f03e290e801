"""A worker: one process and one rank; it takes rows and returns videos and messages. Knows nothing of Ray.

Two threads share the work, so that the next video is denoised while the last one is encoded and stored:

    submit -> rows -> [render thread: model] -> frames -> [write thread: encode, commit] -> poll

A row is reported as done only when its video is stored; the report has its ledger entry, which the driver
writes.

A gang has one worker per rank. Rank 0, the leader, works as above; before it renders a row, it announces it
to the other ranks, its followers, which render it too and write nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from vidgen_dist import media
from vidgen_dist.engine import Engine, Pipeline, get_engine
from vidgen_dist.errors import Refused
from vidgen_dist.families.common.rendering import Rendering, ResumeState
from vidgen_dist.output.pending_row import PendingRow
from vidgen_dist.output.recovery import RecoveredVideo, find_recovered
from vidgen_dist.output.resume_states import ResumeStates, StateSaver
from vidgen_dist.request import ResolvedRequest, sources_of, with_sources
from vidgen_dist.runtime.messages import Job, WorkerMessage, WorkerReport
from vidgen_dist.runtime.watchdog import Pulse
from vidgen_dist.runtime.worker.lora_fetcher import LoraFetcher
from vidgen_dist.runtime.worker.memory import is_out_of_memory
from vidgen_dist.runtime.worker.row_consensus import Followers, GangBroken, RankResult, RowConsensus
from vidgen_dist.runtime.worker.write_thread import RenderOutcome, WriteThread
from vidgen_dist.storage import uris
from vidgen_dist.storage.failures import describe_error
from vidgen_dist.storage.retries import with_retries
from vidgen_dist.worker_events import OnWorkerEvent, WorkerEvent, ignore_event

JOIN_SECONDS = 300.0
"""Within this time all ranks of a gang must have connected: all are running and know each other's address."""

GATHER_SECONDS = 0.1
"""Between two reports: messages in quick succession are sent together."""

SETTLE_SECONDS = 0.02
"""From the first message of a report to the report: when a row ends, the next one begins."""

_THE_END = object()


@dataclass(frozen=True)
class _JoinCommand:
    """The command to join a gang."""

    addresses: Sequence[str]
    rank: int


class _Abandoned(Exception):
    """Rendering must stop at once."""


class Inbox:
    """The queue of rows to be rendered, and of the mark that ends it."""

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._changed = threading.Condition()

    def put(self, *items: Any) -> None:
        """Add items at the end."""
        with self._changed:
            self._items.extend(items)
            self._changed.notify_all()

    def get(self) -> Any:
        """Wait for the next item and remove it; a row counts as begun then."""
        with self._changed:
            self._changed.wait_for(lambda: self._items)
            return self._items.popleft()

    def take_back(self, count: int) -> list[PendingRow]:
        """Remove up to `count` rows from the end, which have not begun, and return them."""
        with self._changed:
            rows = [item for item in self._items if isinstance(item, PendingRow)]
            back = rows[max(0, len(rows) - count) :]
            gone = {id(row) for row in back}
            self._items = deque(item for item in self._items if id(item) not in gone)
            return back


class Worker:
    """Renders rows in threads of its own; every method but `follow` returns at once or within its timeout.

    Args:
        job: What to render, and where to store it.
        name: This worker's name in the ledger.
        on_event: Called for everything that happens.
    """

    def __init__(self, job: Job, name: str, on_event: OnWorkerEvent = ignore_event) -> None:
        self._job = job
        self._on_event = on_event
        self._rows = Inbox()
        self._joins: queue.SimpleQueue[_JoinCommand | None] = queue.SimpleQueue()
        self._messages: list[WorkerMessage] = []
        self._has_messages = threading.Condition()
        self._reported = 0.0
        self._stopping = threading.Event()
        self._abandon = threading.Event()
        self._pulse = Pulse()
        self._resume_states = ResumeStates(job.output, on_event)
        self._writing = WriteThread(job, name, self._send, self._abandon, self._resume_states, on_event)
        self._lora_fetcher = LoraFetcher(job.model.row_loras or (), on_event)
        self._state_saver = StateSaver(job.output_options.checkpoint_every, self._writing.save)
        self._followers: Followers | None = None
        self._mesh: Any = None

    def start(self, cores: Sequence[int] | None, host: str | None = None) -> None:
        """Load the model and begin.

        Args:
            cores: Cores of this host that the model is pinned to; None for all.
            host: For a rank of a gang of several, the address at which other ranks reach this host: then the
                message `seated` follows, and the worker waits for `join`.
        """
        if host is None:
            self._writing.start()
        threading.Thread(target=self._render, args=(cores, host), name="render", daemon=True).start()

    def join(self, addresses: Sequence[str], rank: int, followers: Followers | None = None) -> None:
        """Become a rank of a gang, then load the model.

        Args:
            addresses: Addresses of all ranks' rendezvous, in the order of ranks.
            rank: This rank's number.
            followers: The other ranks, for rank 0.
        """
        self._followers = followers
        if rank == 0:
            self._writing.start()
        self._joins.put(_JoinCommand(addresses, rank))

    def renew_rendezvous(self) -> None:
        """Open another rendezvous, instead of joining: another gang has this one's address."""
        self._joins.put(None)

    def submit(self, rows: Sequence[PendingRow]) -> None:
        """Add a shard behind those that are waiting; only for a leader."""
        self._rows.put(*rows)
        self._lora_fetcher.fetch_for(rows)

    def give_back(self, count: int) -> None:
        """Give back up to `count` rows that have not begun: the message `returned` follows for each."""
        self._send(*(WorkerMessage("returned", row.id) for row in self._rows.take_back(count)))

    def follow(self, row: PendingRow) -> RankResult:
        """Render a row that the leader renders; returns when it has ended here."""
        result: Future[RankResult] = Future()
        self._rows.put((row, result))
        return result.result()

    def poll(self, timeout: float) -> WorkerReport:
        """Wait up to `timeout` seconds for messages, and return them; each is returned once."""
        with self._has_messages:
            self._has_messages.wait_for(lambda: self._messages, timeout)
        if self._messages:
            time.sleep(max(SETTLE_SECONDS, self._reported + GATHER_SECONDS - time.monotonic()))
        with self._has_messages:
            messages, self._messages = tuple(self._messages), []
            self._reported = time.monotonic()
        silence = {**self._pulse.silence(), **self._writing.pulse.silence()}
        return WorkerReport(messages, silence, self._pulse.steps)

    def save(self) -> None:
        """Save the state of the present rendering after its latest step, and after each further one.

        Does nothing if the job saves no resume states.
        """
        self._state_saver.save_latest(and_all_after=True)

    def stop(self, now: bool) -> None:
        """Begin no further row; the message `stopped` follows.

        Args:
            now: Give up the row that is being rendered, too; if the job saves resume states, it is saved.
                Either way, a video that is being stored is finished.
        """
        self._stopping.set()
        self._rows.put(_THE_END)
        if now:
            self._abandon.set()
            self._state_saver.save_latest()
            # A step may take minutes: the write thread does not wait for the render thread.
            self._writing.end()

    def _send(self, *messages: WorkerMessage) -> None:
        for message in messages:
            self._on_event(message.worker_event)
        with self._has_messages:
            self._messages.extend(messages)
            self._has_messages.notify_all()

    def _report_broken(self, error: BaseException) -> None:
        if isinstance(error, GangBroken):
            message = uris.redact_message(str(error))
            self._send(WorkerMessage("broken", error=error.error or GangBroken.__name__, message=message))
        else:
            self._send(WorkerMessage("broken", error=type(error).__name__, message=describe_error(error)))

    # The render thread

    def _render(self, cores: Sequence[int] | None, host: str | None) -> None:
        try:
            self._render_rows(cores, host)
        except BaseException as error:  # noqa: BLE001 - otherwise the driver would wait for its rows in vain
            self._report_broken(error)
        finally:
            self._pulse.rest()
            # What a gang rendered before it broke is good.
            self._state_saver.save_latest()
            self._writing.end()

    def _render_rows(self, cores: Sequence[int] | None, host: str | None) -> None:
        self._pulse.beat("load")
        if cores is not None:
            # For this thread and the compute threads that it creates: MindSpore's matmul obeys nothing else.
            # The threads that encode and that receive calls may take any idle core.
            os.sched_setaffinity(0, cores)
        threads = len(cores) if cores else None
        try:
            engine = get_engine(self._job.engine)
            rank = 0 if host is None else self._join_gang(engine, threads, host)
            pipeline = engine.load(self._job.model, self._job.device, threads, self._mesh)
        except Refused as error:
            self._send(WorkerMessage("refused", error=type(error).__name__, message=str(error)))
            return
        self._pulse.rest()
        self._send(WorkerMessage("ready"))
        if rank == 0:
            self._lead(pipeline)
        else:
            self._follow(pipeline)

    def _join_gang(self, engine: Engine, threads: int | None, host: str) -> int:
        """Open a rendezvous, report its address and join the gang; returns the rank."""
        while True:
            rendezvous = engine.open_rendezvous(self._job.device, threads, host)
            self._send(WorkerMessage("seated", message=rendezvous.address))
            command = self._joins.get()
            if command is not None:
                self._mesh = rendezvous.join(command.addresses, command.rank, self._job.degrees, JOIN_SECONDS)
                self._mesh.rehearse()
                self._on_event(WorkerEvent("joined", rank=command.rank))
                return command.rank

    def _follow(self, pipeline: Pipeline) -> None:
        while True:
            row, result = self._rows.get()
            self._on_event(WorkerEvent("started", row.id))
            self._pulse.beat("encode")
            try:
                pipeline.render(row.request, on_progress=self._on_progress, resume=row.state)
                own = RankResult(issued=self._issued())
            except Exception as error:  # noqa: BLE001 - the leader finds out whether it is the row's fault
                own = RankResult.from_error(error, self._issued())
            self._pulse.rest()
            self._on_event(WorkerEvent("rendered", row.id, error=own.error, message=own.message))
            result.set_result(own)

    def _lead(self, pipeline: Pipeline) -> None:
        while (row := self._rows.get()) is not _THE_END:
            if self._stopping.is_set():
                return
            self._send(WorkerMessage("started", row.id))
            self._pulse.beat("encode")
            try:
                outcome = self._render_with_retries(pipeline, row)
            except _Abandoned:
                return
            finally:
                self._pulse.rest()
            self._state_saver.forget()
            self._send(WorkerMessage("rendered", row.id))
            if not self._writing.put(outcome):
                return

    def _render_with_retries(self, pipeline: Pipeline, row: PendingRow) -> RenderOutcome:
        """Render a row; if memory is too short, try again, up to `max_attempts` times in all.

        This is for a gang of one. A gang of several breaks in this case, and the supervisor counts the tries.
        """
        for delay in self._job.retries.delays(self._job.max_attempts):
            outcome = self._render_row(pipeline, row)
            if outcome.error is None or not is_out_of_memory(outcome.error):
                return outcome
            error = outcome.error
            self._on_event(
                WorkerEvent("retried", row.id, error=type(error).__name__, message=describe_error(error))
            )
            # The error's traceback refers to what filled the memory.
            del outcome, error
            gc.collect()
            self._pulse.rest()
            self._stopping.wait(delay)
            self._pulse.beat("encode")
        return self._render_row(pipeline, row)

    def _render_row(self, pipeline: Pipeline, row: PendingRow) -> RenderOutcome:
        # Computed before the media are read, so that a row whose image is missing has a fingerprint, too.
        fingerprint = self._job.identity.fingerprint(row.request, {})
        try:
            request, digests = self._fetch_media(row.request)
            fingerprint = self._job.identity.fingerprint(row.request, digests)
            if (
                row.maybe_stored
                and not row.invalidated
                and (stored := self._find_stored(row, fingerprint)) is not None
            ):
                return RenderOutcome(row, fingerprint, {}, stored=stored)
            state = self._saved_state(row, fingerprint)
            whole = dataclasses.replace(row, request=request, state=state)
            rendering = self._render_together(pipeline, whole, fingerprint)
            if rendering.loras_changed:
                self._on_event(WorkerEvent("loras", row.id))
            # A quarter of the memory while the frames wait to be written.
            frames = media.to_uint8(rendering.frames)
            return RenderOutcome(
                row,
                fingerprint,
                dict(rendering.seconds),
                frames,
                sent=rendering.sent,
                loras_changed=rendering.loras_changed,
            )
        except (_Abandoned, GangBroken):
            raise
        except Exception as error:  # noqa: BLE001 - a bad row never stops a run
            return RenderOutcome(row, fingerprint, {}, error=self._with_source(error, row.request))

    def _find_stored(self, row: PendingRow, fingerprint: str) -> RecoveredVideo | None:
        """The row's finished video, if it is stored already."""
        try:
            return find_recovered(
                self._job.output,
                self._job.output_options,
                row,
                fingerprint,
                self._abandon,
                self._on_event,
                self._job.retries,
            )
        except OSError as error:
            # Rendering the row again gives the same video.
            self._on_event(
                WorkerEvent("adopted", row.id, error=type(error).__name__, message=describe_error(error))
            )
            return None
        finally:
            self._pulse.beat("encode")

    def _render_together(self, pipeline: Pipeline, row: PendingRow, fingerprint: str) -> Rendering:
        """Render a row here and on the followers, and save its state now and then.

        Raises:
            GangBroken: The ranks do not agree on how it ended.
            Exception: The model's error, the same on all ranks.
        """
        render = functools.partial(
            pipeline.render,
            row.request,
            on_progress=self._on_progress,
            resume=row.state,
            on_state=self._state_saver.listener(row.id, fingerprint),
        )
        if self._followers is None:
            return render()
        consensus = RowConsensus(self._followers.announce(row), self._job.patience, self._report_broken)
        try:
            rendering = render()
        except _Abandoned:
            raise
        except Exception as error:
            consensus.settle(RankResult.from_error(error, self._issued()))
            raise
        try:
            consensus.settle(RankResult(issued=self._issued()))
        except GangBroken:
            # Ranks that are out of step may have been out of step for some time.
            self._state_saver.discard(row.id, fingerprint)
            raise
        return rendering

    def _issued(self) -> dict[tuple[int, ...], int]:
        """Collectives that this rank has begun, by group."""
        return dict(self._mesh.traffic.issued)

    def _on_progress(self, stage: str, done: int, steps: int) -> None:
        self._pulse.beat(stage, (done, steps) if steps > 1 else None)
        if self._abandon.is_set():
            raise _Abandoned

    def _saved_state(self, row: PendingRow, fingerprint: str) -> ResumeState | None:
        """The state from which to resume an earlier rendering of a row; None for step 0."""
        if self._job.output_options.checkpoint_every is None:
            return None
        state = self._resume_states.load(row.id, fingerprint)
        if state is None or row.restart:
            return None
        self._on_event(WorkerEvent("resumed", row.id, step=state.step))
        return state

    def _fetch_media(self, request: ResolvedRequest) -> tuple[ResolvedRequest, dict[str, str]]:
        """The request with its media's bytes in place of their addresses, and each one's digest."""
        values, fields = request.values(), self._job.identity.pixel_fields.fields
        fetched: dict[str, Any] = {}
        digests = {}
        for name, source in sources_of(values, fields).items():
            content = source.value
            if isinstance(content, str):
                read = functools.partial(media.read_encoded, content, is_clip=source.is_clip)
                content = fetched[name] = with_retries(
                    read, hurry=self._abandon, on_event=self._on_event, policy=self._job.retries
                )
            digests[name] = media.media_digest(content)
        return dataclasses.replace(request, **with_sources(values, fetched, fields)), digests

    def _with_source(self, error: Exception, request: ResolvedRequest) -> Exception:
        """An error in the bytes of media, with the address from which they were read."""
        sources = sources_of(request.values(), self._job.identity.pixel_fields.fields).values()
        addresses = [uris.redact(source.value) for source in sources if isinstance(source.value, str)]
        named = any(address in str(error) for address in addresses)
        if not isinstance(error, media.MediaError) or named or not addresses:
            return error
        return media.MediaError(f"{', '.join(addresses)}: {error}")
