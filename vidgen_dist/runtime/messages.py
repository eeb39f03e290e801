"""Messages between the driver and workers: plain data that can be sent between processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa

from vidgen_dist.ledger import LedgerEntry
from vidgen_dist.output.fingerprint import Identity
from vidgen_dist.parallel.degrees import Degrees
from vidgen_dist.spec import ModelOptions, OutputOptions
from vidgen_dist.storage.folder import Storage
from vidgen_dist.storage.retry_policy import RetryPolicy
from vidgen_dist.worker_events import WorkerEvent


@dataclass(frozen=True)
class Job:
    """What every worker of a run gets, once.

    Args:
        engine: Module name of the engine.
        model: The checkpoint, its revision a commit.
        device: `cpu` or `ascend`.
        output: The folder of videos and ledger.
        output_options: How frames are encoded, what is rejected, and how often resume states are saved.
        identity: What decides the pixels of every row.
        passthrough: Names and types of the manifest's columns that are copied to the ledger.
        degrees: How a gang divides the work of one video.
        max_attempts: See `spec.FaultsOptions`.
        patience: Seconds within which all ranks of a gang raise an error that a row causes.
        retries: How often a worker repeats a request that the storage has refused.
    """

    engine: str
    model: ModelOptions
    device: str
    output: Storage
    output_options: OutputOptions
    identity: Identity
    passthrough: pa.Schema
    degrees: Degrees = field(default_factory=Degrees)
    max_attempts: int = 3
    patience: float = 600.0
    retries: RetryPolicy = RetryPolicy()


@dataclass(frozen=True)
class WorkerMessage:
    """A message from a worker to the driver.

    Args:
        kind: `seated` (ready to join its gang; the message is its address), `ready` (the model is loaded),
            `started` (a row), `rendered` (it left the model), `done` or `failed` (its video is on the
            storage, or there will be none: its ledger entry can be written), `returned` (it was asked back,
            and will not be begun), `stopped` (nothing more will come), `refused` (the model cannot be loaded
            anywhere), `broken` (it could not be loaded here, or the worker can do no more), `stuck`
            (nothing more can be written; the message says where and why).
        id: The row's id.
        error: Class of the error, for `failed`, `refused`, `broken` and `stuck`.
        message: The error's message.
        sent: For `done`, bytes that the gang's first rank sent to the others for this video, by purpose.
        loras_changed: For `done`, whether the LoRAs in the weights were changed for this video.
        entry: For `done` and `failed`, the row's ledger entry.
        recovered: For `done`, whether the video was there already.
    """

    kind: Literal[
        "seated",
        "ready",
        "started",
        "rendered",
        "done",
        "failed",
        "returned",
        "stopped",
        "refused",
        "broken",
        "stuck",
    ]
    id: str | None = None
    error: str | None = None
    message: str = ""
    sent: Mapping[str, int] = field(default_factory=dict)
    loras_changed: bool = False
    entry: LedgerEntry | None = None
    recovered: bool = False

    @property
    def worker_event(self) -> WorkerEvent:
        """The message as an event, for the worker's log and metrics."""
        return WorkerEvent(self.kind, self.id, error=self.error, message=self.message)


@dataclass(frozen=True)
class WorkerReport:
    """What `Worker.poll` returns.

    Args:
        messages: In the order in which they were sent.
        silence: Stage -> seconds since its last sign of life, of the stages that are under way: at most one
            of the model's, and `write`.
        steps: How many steps of the model's stage are done, and how many it has; None without steps.
    """

    messages: tuple[WorkerMessage, ...]
    silence: Mapping[str, float]
    steps: tuple[int, int] | None = None
