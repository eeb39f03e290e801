"""The watchdog: a worker's threads give signs of life, and the driver knows each stage's limit without one.

A sign of life is the beginning of a stage or of a step in it. Each stage has its own limit, for a denoising
step and the download of a model have nothing in common.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import MappingProxyType

from vidgen_dist.spec import WatchdogOptions

LIMITS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "ascend": {"load": 3600.0, "encode": 600.0, "denoise": 600.0, "decode": 1800.0, "write": 1800.0},
        # A step of a second on an NPU takes an hour on two cores.
        "cpu": {"load": 3600.0, "encode": 3600.0, "denoise": 14400.0, "decode": 14400.0, "write": 1800.0},
    }
)
"""Device -> stage -> seconds without a sign of life after which a gang counts as dead, by default."""


class Pulse:
    """The latest sign of life of one thread: when it was, and in which stage.

    Attributes:
        steps: How many of that stage's steps are done, and how many it has.
    """

    def __init__(self) -> None:
        self._latest: tuple[str, float] | None = None
        self.steps: tuple[int, int] | None = None

    def beat(self, stage: str, steps: tuple[int, int] | None = None) -> None:
        """Give a sign of life.

        Args:
            stage: The stage.
            steps: How many of its steps are done, and how many it has; None for a stage without steps.
        """
        self._latest, self.steps = (stage, time.monotonic()), steps

    def rest(self) -> None:
        """Note that there is nothing to do: silence means nothing."""
        self._latest = self.steps = None

    def silence(self) -> dict[str, float]:
        """The stage -> the seconds since its latest sign of life; empty while there is nothing to do."""
        latest = self._latest
        return {} if latest is None else {latest[0]: time.monotonic() - latest[1]}


def limits_of(watchdog: WatchdogOptions, device: str) -> dict[str, float]:
    """Stage -> seconds without a sign of life: the run's option, or else the device's default."""
    return {**LIMITS[device], **watchdog.model_dump(exclude_none=True)}


def describe_overdue(silence: Mapping[str, float], limits: Mapping[str, float]) -> str | None:
    """Which stage of a worker has exceeded its limit, as text; None if none has.

    Args:
        silence: See `Pulse.silence`.
        limits: See `limits_of`.
    """
    for stage, seconds in silence.items():
        if seconds > limits[stage]:
            return (
                f"no sign of life for {seconds:.0f} s in {stage}, topology.watchdog.{stage} is "
                f"{limits[stage]:g}"
            )
    return None


def answer_limit(silence: Mapping[str, float], limits: Mapping[str, float]) -> float:
    """Seconds that a worker with this latest silence may take to answer."""
    # A worker that was only writing may have got a row since, whose first stage is `encode`.
    rendering = [stage for stage in silence if stage != "write"]
    return limits[rendering[0] if rendering else "encode"]
