"""Encode prompts on Ray actors, each with the text encoders on an NPU, or a share of the CPUs, of its own.

Rows are handed out in batches. An actor that dies, or gives no answer in time, is replaced, and its rows are
handed out again, each alone: one that ends two processes has failed.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray

from vidgen_dist import printing
from vidgen_dist.engine import get_engine
from vidgen_dist.errors import Refused, RowError
from vidgen_dist.media import ignore_warnings
from vidgen_dist.request import ResolvedRequest
from vidgen_dist.runtime.connection import RayFault, alive_nodes, cpu_share, ray_request
from vidgen_dist.runtime.ray_errors import describe_failure
from vidgen_dist.spec import ModelOptions

BATCH = 16
"""Rows that an actor gets at once."""

MOST_LOSSES = 2
"""Actors that a row may end."""

LOSSES_IN_A_ROW = 3
"""Actors that may end with no batch done in between, for each of the pool: then it is not a row's fault."""

LOOK_SECONDS = 1.0
"""Between two looks at what is overdue."""

PATIENCE = 30.0
"""Seconds after which it is told that actors wait for a place."""

_PLACE, _LOAD, _ENCODE = "place", "load", "encode"

OnEnd = Callable[[ResolvedRequest, str | None], None]
"""Receives a row's request, and what is wrong with it."""


class EncoderActor:
    """The text encoders in a process of Ray's."""

    def __init__(self) -> None:
        ignore_warnings()
        # Ray sends the output to files, on a disk that may be full.
        printing.guard(in_any_case=True)

    def place(self) -> None:
        """Answer as soon as the actor has its place."""

    def load(self, engine: str, model: ModelOptions, device: str, threads: int | None) -> None:
        """Load the encoders; raises what `engine.load_prompt_encoder` raises."""
        self._encoder = get_engine(engine).load_prompt_encoder(model, device, threads)

    def encode(self, requests: Iterable[ResolvedRequest]) -> list[str | None]:
        """Encode prompts and store them; returns what is wrong with each."""
        return [self._encode(request) for request in requests]

    def _encode(self, request: ResolvedRequest) -> str | None:
        try:
            self._encoder.encode_prompts(request)
        except RowError as error:
            return f"{type(error).__name__}: {error}"
        return None


@dataclass(frozen=True)
class _Call:
    """A call that an actor has not answered yet.

    Args:
        actor: The actor.
        stage: `place`, `load` or `encode`.
        batch: The rows that it encodes.
        since: When the call was made, on the monotonic clock.
    """

    actor: Any
    stage: str
    batch: tuple[ResolvedRequest, ...]
    since: float


class EncoderPool:
    """Actors that encode prompts, replaced when they are lost.

    Args:
        engine: Module name of the engine.
        model: The checkpoint, with a prompt store.
        device: `cpu` or `ascend`.
        actors: How many there are, each on one NPU.
        limits: Stage -> seconds within which an actor answers, for `encode` those of one row.
        print_line: Receives lines for a person.
    """

    def __init__(
        self,
        engine: str,
        model: ModelOptions,
        device: str,
        actors: int,
        limits: Mapping[str, float],
        print_line: Callable[[str], None],
    ) -> None:
        self._engine, self._model, self._device = engine, model, device
        self._actors, self._limits, self._print_line = actors, limits, print_line
        self._told = False
        self._kind = ray.remote(EncoderActor)
        self._share = 1.0
        if device == "cpu":
            self._share = cpu_share([node.cpus for node in alive_nodes()], actors)
        self._calls: dict[Any, _Call] = {}
        self._again: deque[ResolvedRequest] = deque()
        self._losses: Counter[str] = Counter()
        self._losses_in_a_row = 0

    def encode(self, requests: Iterable[ResolvedRequest], on_end: OnEnd) -> None:
        """Encode the prompts of rows; those that the store has already are only looked up.

        Args:
            requests: The rows' requests.
            on_end: Called for each row when it is done or has failed.

        Raises:
            Refused: The encoders cannot be loaded.
            RayFault: Ray is gone, or actors are lost one after the other.
        """
        rows = iter(requests)
        batches = iter(lambda: tuple(itertools.islice(rows, BATCH)), ())
        for _ in range(self._actors):
            self._launch()
        while self._calls:
            with ray_request("wait for encoders"):
                answered, _ = ray.wait(list(self._calls), timeout=LOOK_SECONDS)
            for reference in answered:
                self._take(self._calls.pop(reference), reference, batches, on_end)
            self._end_overdue(on_end)
            self._tell_waiting()

    def _launch(self) -> None:
        needs: dict[str, Any] = {"num_cpus": self._share}
        if self._device != "cpu":
            needs = {"num_cpus": 0, "resources": {"NPU": 1}}
        with ray_request("create an encoder"):
            actor = self._kind.options(max_restarts=0, max_task_retries=0, **needs).remote()
            self._call(actor, _PLACE, actor.place.remote())

    def _call(self, actor: Any, stage: str, reference: Any, batch: tuple[ResolvedRequest, ...] = ()) -> None:
        self._calls[reference] = _Call(actor, stage, batch, time.monotonic())

    def _take(
        self, call: _Call, reference: Any, batches: Iterator[tuple[ResolvedRequest, ...]], on_end: OnEnd
    ) -> None:
        """Take an actor's answer, and give it what comes next."""
        try:
            answer = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, Refused):
                raise Refused(str(error.cause)) from error
            self._lose(call, describe_failure(error), on_end)
            return
        except ray.exceptions.RayError as error:
            self._lose(call, describe_failure(error), on_end)
            return
        if call.stage == _ENCODE:
            self._losses_in_a_row = 0
            for request, error_of_row in zip(call.batch, answer, strict=True):
                on_end(request, error_of_row)
        self._give(call, batches)

    def _give(self, call: _Call, batches: Iterator[tuple[ResolvedRequest, ...]]) -> None:
        """Give an actor its next call; without one it ends."""
        actor = call.actor
        if call.stage == _PLACE:
            threads = max(int(self._share), 1) if self._device == "cpu" else None
            with ray_request("call an encoder"):
                loads = actor.load.remote(self._engine, self._model, self._device, threads)
            self._call(actor, _LOAD, loads)
            return
        batch = (self._again.popleft(),) if self._again else next(batches, None)
        if batch is None:
            _end(actor)
            return
        with ray_request("call an encoder"):
            self._call(actor, _ENCODE, actor.encode.remote(batch), batch)

    def _end_overdue(self, on_end: OnEnd) -> None:
        now = time.monotonic()
        for reference, call in list(self._calls.items()):
            limit = self._limits.get(call.stage)
            if limit is not None and now - call.since > limit * max(len(call.batch), 1):
                del self._calls[reference]
                self._lose(call, f"gave no answer in {now - call.since:.0f} s of {call.stage}", on_end)

    def _tell_waiting(self) -> None:
        """Say once that actors have no place yet: they wait for as long as it takes."""
        since = [call.since for call in self._calls.values() if call.stage == _PLACE]
        if since and not self._told and time.monotonic() - min(since) > PATIENCE:
            self._told = True
            kind = "CPU" if self._device == "cpu" else "NPU"
            self._print_line(f"waiting for {len(since)} free {kind}s, of {self._actors}")

    def _lose(self, call: _Call, reason: str, on_end: OnEnd) -> None:
        """Replace an actor, and hand out its rows again."""
        _end(call.actor)
        self._losses_in_a_row += 1
        if self._losses_in_a_row >= LOSSES_IN_A_ROW * self._actors:
            raise RayFault(f"{self._losses_in_a_row} encoders were lost in a row; the last one {reason}")
        for request in call.batch:
            self._losses[request.id] += 1
            if len(call.batch) == 1 and self._losses[request.id] >= MOST_LOSSES:
                on_end(request, f"WorkerDied: the encoder {reason}")
            else:
                self._again.append(request)
        self._launch()


def _end(actor: Any) -> None:
    # If Ray can no longer do that, it ends with the connection to it.
    with suppress(RayFault), ray_request("end an encoder"):
        ray.kill(actor, no_restart=True)
