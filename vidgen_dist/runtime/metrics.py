"""Ray metrics: what a cluster's Prometheus gets of a run, through the agent of each node.

Ray puts `ray_` before each name and `_total` behind those of counters. It rebuilds histograms from their
buckets, so that their sums are approximate: `vidgen_busy_seconds` counts the same seconds exactly.

Labels are the model and the replica, which stay few, not rows or runs; Ray adds its job and session.
"""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge, Histogram

from vidgen_dist.worker_events import WorkerEvent

SECONDS = [
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10000.0,
]
"""Bounds of the buckets of `vidgen_stage_seconds`."""

_REPLICA = ("model", "replica")
NO_REPLICA = "none"
"""The replica of rows that the driver gave up: their gangs are dead."""


class WorkerMetrics:
    """Counts what a worker notes.

    Args:
        model: Id of the checkpoint.
        replica: Which replica the worker is of.
    """

    def __init__(self, model: str, replica: int) -> None:
        tags = {"model": model, "replica": str(replica)}
        self._videos = Counter("vidgen_videos", "Videos committed.", _REPLICA).set_default_tags(tags)
        self._frames = Counter("vidgen_frames", "Their frames.", _REPLICA).set_default_tags(tags)
        self._bytes = Counter("vidgen_written_bytes", "Their bytes.", _REPLICA).set_default_tags(tags)
        self._retries = Counter(
            "vidgen_retries", "Times that something was tried again.", (*_REPLICA, "error")
        ).set_default_tags(tags)
        self._failures = _failures(model, str(replica))
        self._stages = Histogram(
            "vidgen_stage_seconds", "Seconds of a video in a stage.", SECONDS, (*_REPLICA, "stage")
        ).set_default_tags(tags)
        self._busy = Counter(
            "vidgen_busy_seconds", "Seconds spent in a stage.", (*_REPLICA, "stage")
        ).set_default_tags(tags)

    def __call__(self, event: WorkerEvent) -> None:
        if event.what == "committed":
            self._videos.inc()
            # Counters take nothing that is not above 0.
            if event.frames:
                self._frames.inc(event.frames)
            if event.bytes:
                self._bytes.inc(event.bytes)
            for stage, seconds in event.seconds.items():
                self._stages.observe(seconds, {"stage": stage})
                if seconds > 0:
                    self._busy.inc(seconds, {"stage": stage})
        elif event.what == "failed":
            self._failures.inc(tags={"error": event.error or ""})
        elif event.what == "retried":
            self._retries.inc(tags={"error": event.error or ""})


class RunMetrics:
    """What the driver knows of a run.

    Args:
        model: Id of the checkpoint.
    """

    def __init__(self, model: str) -> None:
        self._failures = _failures(model, NO_REPLICA)
        tags = {"model": model}
        self._lost = Counter("vidgen_gangs_lost", "Gangs that died or hung.", ("model",))
        self._lost.set_default_tags(tags)
        self._pending = Gauge("vidgen_rows_pending", "Rows neither done nor given up.", ("model",))
        self._gangs = Gauge("vidgen_gangs", "Gangs that there are.", ("model",))
        self._ready = Gauge("vidgen_gangs_ready", "Those whose model is loaded.", ("model",))
        self._stragglers = Gauge("vidgen_stragglers", "Rows and gangs that take far longer.", ("model",))
        for gauge in (self._pending, self._gangs, self._ready, self._stragglers):
            gauge.set_default_tags(tags)

    def set(self, *, pending: int, gangs: int, ready: int, stragglers: int) -> None:
        """How things stand."""
        self._pending.set(pending)
        self._gangs.set(gangs)
        self._ready.set(ready)
        self._stragglers.set(stragglers)

    def lose(self) -> None:
        """A gang is lost."""
        self._lost.inc()

    def gave_up(self, error: str) -> None:
        """A row that killed its gangs is given up."""
        self._failures.inc(tags={"error": error})


def _failures(model: str, replica: str) -> Counter:
    """Counted by workers and by the driver."""
    tags = {"model": model, "replica": replica}
    return Counter("vidgen_failures", "Rows given up.", (*_REPLICA, "error")).set_default_tags(tags)
