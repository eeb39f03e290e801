"""A worker as a Ray actor, and the followers of a gang as its leader calls them."""

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
        host: Its IP address.
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
            # Once for all of them: there may be a clip in it.
            shared = ray.put(row)
            return [_described(actor.follow.remote(shared).future()) for actor in self._actors]
        except ray.exceptions.OutOfDiskError as error:
            raise OSError(errno.ENOSPC, f"Ray's object store: {in_one_line(error)}") from error
        except Exception as error:
            raise GangBroken(f"the row cannot be announced: {describe_failure(error)}") from error


class WorkerActor(Worker):
    """A `Worker` as Ray starts it, with a log and metrics.

    Args:
        job, name: See `Worker`.
        replica: Which replica it is of.
    """

    def __init__(self, job: Job, name: str, replica: int) -> None:
        ignore_warnings()
        # To files of Ray's, on a disk that may be full.
        printing.guard(in_any_case=True)
        context = ray.get_runtime_context()
        actor = context.get_actor_id()
        # Members of a gang have one name, and no rank yet.
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
        """Where it runs."""
        context = ray.get_runtime_context()
        return Placement(
            node=context.get_node_id(),
            host=ray.util.get_node_ip_address(),
            devices=tuple(context.get_accelerator_ids().get("NPU", ())),
            cores=tuple(sorted(os.sched_getaffinity(0))),
        )

    def lead(self, addresses: Sequence[str], actors: Sequence[Any]) -> None:
        """Join the gang as rank 0; the other ranks' actors follow."""
        self.join(addresses, 0, RayFollowers(actors))


def _described(ending: Future[RankResult]) -> Future[RankResult]:
    """A follower's ending, as it is; what Ray says where there is none, as `describe_failure` tells it."""
    ours: Future[RankResult] = Future()

    def hear(ending: Future[RankResult]) -> None:
        error = ending.exception()
        if error is None:
            ours.set_result(ending.result())
        else:
            ours.set_exception(PeerLost(describe_failure(error)))

    ending.add_done_callback(hear)
    return ours
