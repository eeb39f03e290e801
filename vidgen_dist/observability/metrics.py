"""Declarations of a run's metrics: names, labels and what they count. `runtime.metrics` reports them to Ray.

Labels are the model and the replica, of which there are few, not rows or runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

_RUN = ("model",)
_REPLICA = ("model", "replica")


@dataclass(frozen=True)
class Metric:
    """One metric.

    Args:
        name: Its name in Ray.
        kind: Its type in Prometheus.
        about: What it counts, in one sentence.
        labels: Its labels; Ray adds its own.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    about: str
    labels: tuple[str, ...] = _REPLICA

    @property
    def exported_name(self) -> str:
        """Its name in Prometheus: Ray puts `ray_` before it, and `_total` after a counter's."""
        return f"ray_{self.name}{'_total' if self.kind == 'counter' else ''}"


VIDEOS = Metric("vidgen_videos", "counter", "Videos committed.")
FRAMES = Metric("vidgen_frames", "counter", "Frames of the videos committed.")
WRITTEN_BYTES = Metric("vidgen_written_bytes", "counter", "Bytes of the videos committed.")
STAGE_SECONDS = Metric(
    "vidgen_stage_seconds",
    "histogram",
    "Seconds of a video in a stage: encode, denoise, decode or write.",
    (*_REPLICA, "stage"),
)
BUSY_SECONDS = Metric(
    "vidgen_busy_seconds",
    "counter",
    "The same seconds, summed exactly: the sums of Ray's histograms are approximate.",
    (*_REPLICA, "stage"),
)
FAILURES = Metric(
    "vidgen_failures",
    "counter",
    "Rows given up, by error class; the replica is none for rows that killed their gangs.",
    (*_REPLICA, "error"),
)
RETRIES = Metric(
    "vidgen_retries",
    "counter",
    "Attempts repeated because the storage refused or memory was short, by error class.",
    (*_REPLICA, "error"),
)
LORA_CHANGES = Metric("vidgen_lora_changes", "counter", "Changes of the LoRAs in a replica's weights.")
ROWS_PENDING = Metric("vidgen_rows_pending", "gauge", "Rows neither done nor given up.", _RUN)
GANGS = Metric("vidgen_gangs", "gauge", "Gangs of the run.", _RUN)
GANGS_READY = Metric("vidgen_gangs_ready", "gauge", "Gangs whose model is loaded.", _RUN)
SECONDS_LEFT = Metric(
    "vidgen_seconds_left",
    "gauge",
    "Seconds until no row is pending, at the pace of the last ten minutes; NaN while that is unknown.",
    _RUN,
)
STRAGGLERS = Metric("vidgen_stragglers", "gauge", "Rows and gangs that take far longer than usual.", _RUN)
GANGS_LOST = Metric("vidgen_gangs_lost", "counter", "Gangs that died or hung.", _RUN)

METRICS = (
    VIDEOS,
    FRAMES,
    WRITTEN_BYTES,
    STAGE_SECONDS,
    BUSY_SECONDS,
    FAILURES,
    RETRIES,
    LORA_CHANGES,
    ROWS_PENDING,
    SECONDS_LEFT,
    GANGS,
    GANGS_READY,
    STRAGGLERS,
    GANGS_LOST,
)
"""All of them, in the order of the documentation."""
