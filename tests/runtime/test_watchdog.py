"""Signs of life, and the limits of stages without one."""

from __future__ import annotations

import time

import pytest

from vidgen_dist.parallel.links import TIMEOUT
from vidgen_dist.runtime.watchdog import LIMITS, Pulse, answer_limit, describe_overdue, limits_of
from vidgen_dist.spec import WatchdogOptions


@pytest.mark.parametrize("device", LIMITS)
def test_every_stage_has_a_limit(device: str) -> None:
    assert limits_of(WatchdogOptions(), device).keys() == WatchdogOptions.model_fields.keys()


def test_the_runs_limit_counts_before_the_default() -> None:
    limits = limits_of(WatchdogOptions(denoise=7), "ascend")
    assert limits == {**LIMITS["ascend"], "denoise": 7.0}


def test_a_pulse_tells_the_stage_and_the_seconds_since_its_latest_beat() -> None:
    pulse = Pulse()
    assert pulse.silence() == {}
    pulse.beat("denoise")
    time.sleep(0.05)
    assert pulse.silence()["denoise"] >= 0.04
    pulse.beat("decode")
    assert list(pulse.silence()) == ["decode"]
    pulse.rest()
    assert pulse.silence() == {}


def test_a_pulse_tells_the_step_of_a_stage_that_has_steps() -> None:
    pulse = Pulse()
    pulse.beat("denoise", (3, 50))
    assert pulse.steps == (3, 50)
    pulse.beat("decode")
    assert pulse.steps is None
    pulse.beat("denoise", (4, 50))
    pulse.rest()
    assert pulse.steps is None


def test_each_stage_has_its_own_limit() -> None:
    limits = limits_of(WatchdogOptions(denoise=10, write=100), "cpu")
    assert describe_overdue({"denoise": 9.0, "write": 99.0}, limits) is None
    assert "in denoise, topology.watchdog.denoise is 10" in str(
        describe_overdue({"denoise": 11.0, "write": 99.0}, limits)
    )
    assert "in write, topology.watchdog.write is 100" in str(
        describe_overdue({"denoise": 9.0, "write": 101.0}, limits)
    )


def test_the_limit_of_an_answer_is_that_of_the_latest_stage() -> None:
    limits = limits_of(WatchdogOptions(encode=5, denoise=10, write=100), "cpu")
    assert answer_limit({"denoise": 1.0, "write": 1.0}, limits) == 10
    # A worker that was only writing may have begun a row since.
    assert answer_limit({"write": 1.0}, limits) == 5
    assert answer_limit({}, limits) == 5


def test_the_watchdog_ends_a_gang_before_its_links_time_out() -> None:
    assert max(limit for limits in LIMITS.values() for limit in limits.values()) < TIMEOUT
