"""Ray metrics: a cluster's Prometheus gets them through the agent of each node.

`observability.metrics` declares them. Ray rebuilds histograms from their buckets, so their sums are
approximate: `vidgen_busy_seconds` counts the same seconds exactly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge, Histogram

from vidgen_dist.observability import metrics
from vidgen_dist.observability.metrics import Metric
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

NO_REPLICA = "none"
"""The label of rows that the driver gave up: their gangs are dead."""


class WorkerMetrics:
    """Counts the events of a worker.

    Args:
        model: Id of the checkpoint.
        replica: Number of the worker's replica.
    """

    def __init__(self, model: str, replica: int) -> None:
        tags = {"model": model, "replica": str(replica)}
        self._videos = _counter(metrics.VIDEOS, tags)
        self._frames = _counter(metrics.FRAMES, tags)
        self._bytes = _counter(metrics.WRITTEN_BYTES, tags)
        self._retries = _counter(metrics.RETRIES, tags)
        self._failures = _counter(metrics.FAILURES, tags)
        self._lora_changes = _counter(metrics.LORA_CHANGES, tags)
        stages = metrics.STAGE_SECONDS
        self._stages = Histogram(stages.name, stages.about, SECONDS, stages.labels).set_default_tags(tags)
        self._busy = _counter(metrics.BUSY_SECONDS, tags)

    def __call__(self, event: WorkerEvent) -> None:
        if event.kind == "committed":
            self._videos.inc()
            # Counters accept only values above 0.
            if event.frames:
                self._frames.inc(event.frames)
            if event.bytes:
                self._bytes.inc(event.bytes)
            for stage, seconds in event.seconds.items():
                self._stages.observe(seconds, {"stage": stage})
                if seconds > 0:
                    self._busy.inc(seconds, {"stage": stage})
        elif event.kind == "failed":
            self._failures.inc(tags={"error": event.error or ""})
        elif event.kind == "loras":
            self._lora_changes.inc()
        elif event.kind == "retried":
            self._retries.inc(tags={"error": event.error or ""})


class RunMetrics:
    """Counts what the driver knows about a run.

    Args:
        model: Id of the checkpoint.
    """

    def __init__(self, model: str) -> None:
        tags = {"model": model}
        self._failures = _counter(metrics.FAILURES, {**tags, "replica": NO_REPLICA})
        self._lost = _counter(metrics.GANGS_LOST, tags)
        self._pending = _gauge(metrics.ROWS_PENDING, tags)
        self._seconds_left = _gauge(metrics.SECONDS_LEFT, tags)
        self._gangs = _gauge(metrics.GANGS, tags)
        self._ready = _gauge(metrics.GANGS_READY, tags)
        self._stragglers = _gauge(metrics.STRAGGLERS, tags)

    def set(
        self, *, pending: int, seconds_left: float | None, gangs: int, ready: int, stragglers: int
    ) -> None:
        """Set the current numbers; `seconds_left` is None while it is not known."""
        self._pending.set(pending)
        # A gauge keeps its last value: one that is no longer known must not stay.
        self._seconds_left.set(math.nan if seconds_left is None else seconds_left)
        self._gangs.set(gangs)
        self._ready.set(ready)
        self._stragglers.set(stragglers)

    def count_lost_gang(self) -> None:
        """Count a gang that is lost."""
        self._lost.inc()

    def count_given_up(self, error: str) -> None:
        """Count a row that is given up because of the gangs that it killed."""
        self._failures.inc(tags={"error": error})


def _counter(metric: Metric, tags: Mapping[str, str]) -> Counter:
    return Counter(metric.name, metric.about, metric.labels).set_default_tags(dict(tags))


def _gauge(metric: Metric, tags: Mapping[str, str]) -> Gauge:
    return Gauge(metric.name, metric.about, metric.labels).set_default_tags(dict(tags))
