"""Signs of life, and how long each stage may do without."""

from __future__ import annotations

import time

import pytest

from vidgen_dist.parallel.links import TIMEOUT
from vidgen_dist.runtime.watchdog import LIMITS, Pulse, limits_of, overdue, patience
from vidgen_dist.spec import WatchdogOptions


@pytest.mark.parametrize("device", LIMITS)
def test_every_stage_has_a_limit(device: str) -> None:
    assert limits_of(WatchdogOptions(), device).keys() == WatchdogOptions.model_fields.keys()


def test_what_the_run_says_counts() -> None:
    limits = limits_of(WatchdogOptions(denoise=7), "ascend")
    assert limits == {**LIMITS["ascend"], "denoise": 7.0}


def test_a_pulse() -> None:
    pulse = Pulse()
    assert pulse.silent() == {}
    pulse.beat("denoise")
    time.sleep(0.05)
    assert pulse.silent()["denoise"] >= 0.04
    pulse.beat("decode")
    assert list(pulse.silent()) == ["decode"]
    pulse.rest()
    assert pulse.silent() == {}


def test_each_stage_by_its_own_limit() -> None:
    limits = limits_of(WatchdogOptions(denoise=10, write=100), "cpu")
    assert overdue({"denoise": 9.0, "write": 99.0}, limits) is None
    assert "in denoise, topology.watchdog.denoise is 10" in str(
        overdue({"denoise": 11.0, "write": 99.0}, limits)
    )
    assert "in write, topology.watchdog.write is 100" in str(
        overdue({"denoise": 9.0, "write": 101.0}, limits)
    )


def test_patience_is_that_of_the_stage_last_seen() -> None:
    limits = limits_of(WatchdogOptions(encode=5, denoise=10, write=100), "cpu")
    assert patience({"denoise": 1.0, "write": 1.0}, limits) == 10
    # One that only writes may have begun a row since.
    assert patience({"write": 1.0}, limits) == 5
    assert patience({}, limits) == 5


def test_who_supervises_a_gang_is_quicker_than_its_links() -> None:
    assert max(limit for limits in LIMITS.values() for limit in limits.values()) < TIMEOUT
