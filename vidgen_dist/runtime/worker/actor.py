"""A worker as a Ray actor, and a gang's followers as Ray actors that the leader calls."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import ray

from vidgen_dist import printing
from vidgen_dist.media import ignore_warnings
from vidgen_dist.observability.worker_log import log_file, open_log
from vidgen_dist.output.pending_row import PendingRow
from vidgen_dist.parallel.collectives import PeerLost
from vidgen_dist.runtime.connection import in_one_line
from vidgen_dist.runtime.messages import Job
from vidgen_dist.runtime.metrics import WorkerMetrics
from vidgen_dist.runtime.ray_errors import describe_failure
from vidgen_dist.runtime.worker.row_consensus import GangBroken, RankResult
from vidgen_dist.runtime.worker.worker import Worker
from vidgen_dist.worker_events import combine


@dataclass(frozen=True)
class Placement:
    """Where an actor runs.

    Args:
        node: Ray's id of the node.
        host: The node's IP address.
        devices: Numbers of the NPUs that the actor has there.
        cores: Cores that it may use there.
    """

    node: str
    host: str
    devices: tuple[str, ...]
    cores: tuple[int, ...]


class RayFollowers:
    """The followers of a gang as actors."""

    def __init__(self, actors: Sequence[Any]) -> None:
        self._actors = actors

    def announce(self, row: PendingRow) -> list[Future[RankResult]]:
        try:
            # Sent once for all of them: it may contain a clip.
            shared = ray.put(row)
            return [_describe_loss(actor.follow.remote(shared).future()) for actor in self._actors]
        except ray.exceptions.OutOfDiskError as error:
            raise OSError(errno.ENOSPC, f"Ray's object store: {in_one_line(error)}") from error
        except Exception as error:
            raise GangBroken(f"the row cannot be announced: {describe_failure(error)}") from error


class WorkerActor(Worker):
    """A `Worker` as Ray starts it, with a log and metrics.

    Args:
        job, name: See `Worker`.
        replica: Number of its gang's replica.
    """

    def __init__(self, job: Job, name: str, replica: int) -> None:
        ignore_warnings()
        # Ray sends the output to files, on a disk that may be full.
        printing.guard(in_any_case=True)
        context = ray.get_runtime_context()
        actor = context.get_actor_id()
        # All members of a gang have the same name, and no rank yet.
        log_name = name if job.degrees.size == 1 else f"{name}-{actor[:8]}"
        ray_logs = os.path.join(context.get_temp_dir(), context.get_session_name(), "logs")
        log = open_log(
            log_file(job.output, log_name, ray_logs),
            name,
            replica=replica,
            model=job.model.id,
            revision=job.model.revision,
            host=ray.util.get_node_ip_address(),
            pid=os.getpid(),
            npus=context.get_accelerator_ids().get("NPU", []),
            actor=actor,
        )
        super().__init__(job, name, combine(WorkerMetrics(job.model.id, replica), log))

    def get_placement(self) -> Placement:
        """Where the actor runs."""
        context = ray.get_runtime_context()
        return Placement(
            node=context.get_node_id(),
            host=ray.util.get_node_ip_address(),
            devices=tuple(context.get_accelerator_ids().get("NPU", ())),
            cores=tuple(sorted(os.sched_getaffinity(0))),
        )

    def lead(self, addresses: Sequence[str], actors: Sequence[Any]) -> None:
        """Join the gang as rank 0, with the other ranks' actors as followers."""
        self.join(addresses, 0, RayFollowers(actors))


def _describe_loss(call: Future[RankResult]) -> Future[RankResult]:
    """A follower's result; without one, `PeerLost` with what `describe_failure` makes of Ray's error."""
    result: Future[RankResult] = Future()

    def pass_on(call: Future[RankResult]) -> None:
        error = call.exception()
        if error is None:
            result.set_result(call.result())
        else:
            result.set_exception(PeerLost(describe_failure(error)))

    call.add_done_callback(pass_on)
    return result
