"""The watchdog: a worker's threads show signs of life, the driver knows how long each stage may do without.

A sign of life is the beginning of a stage or of a step in it. Limits are by stage, for a denoising step and
the download of a model have nothing in common.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import MappingProxyType

from vidgen_dist.spec import WatchdogOptions

LIMITS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "ascend": {"load": 3600.0, "encode": 600.0, "denoise": 600.0, "decode": 1800.0, "write": 1800.0},
        # A step that takes an NPU a second takes two cores an hour.
        "cpu": {"load": 3600.0, "encode": 3600.0, "denoise": 14400.0, "decode": 14400.0, "write": 1800.0},
    }
)
"""Device -> stage -> seconds without a sign of life after which a gang is taken for dead, by default."""


class Pulse:
    """The latest sign of life of one thread: when it was and in which stage."""

    def __init__(self) -> None:
        self._latest: tuple[str, float] | None = None

    def beat(self, stage: str) -> None:
        """Show a sign of life."""
        self._latest = stage, time.monotonic()

    def rest(self) -> None:
        """There is nothing to do: silence means nothing."""
        self._latest = None

    def silent(self) -> dict[str, float]:
        """The stage and the seconds since the latest sign of life; empty while there is nothing to do."""
        latest = self._latest
        return {} if latest is None else {latest[0]: time.monotonic() - latest[1]}


def limits_of(watchdog: WatchdogOptions, device: str) -> dict[str, float]:
    """Stage -> seconds without a sign of life, as the run says or as the device's default has it."""
    return {**LIMITS[device], **watchdog.model_dump(exclude_none=True)}


def overdue(silent: Mapping[str, float], limits: Mapping[str, float]) -> str | None:
    """What is wrong with one who has been silent for so long, if anything is.

    Args:
        silent: Stage -> seconds, as `Pulse.silent` gives them.
        limits: As `limits_of` gives them.
    """
    for stage, seconds in silent.items():
        if seconds > limits[stage]:
            return (
                f"no sign of life for {seconds:.0f} s in {stage}, topology.watchdog.{stage} is "
                f"{limits[stage]:g}"
            )
    return None


def patience(silent: Mapping[str, float], limits: Mapping[str, float]) -> float:
    """Seconds that one may take to answer, who was last seen like that."""
    # Whoever had nothing to do but to write may have been given a row since, which begins with its encoding.
    rendering = [stage for stage in silent if stage != "write"]
    return limits[rendering[0] if rendering else "encode"]
