"""Signals that ask a run to end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from vidgen_dist.runtime import interrupts as interrupts_module
from vidgen_dist.runtime.interrupts import Interrupts


@pytest.fixture(autouse=True)
def hangups_are_not_ignored() -> Iterator[None]:
    """As they are under `nohup pytest`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def test_the_first_ctrl_c_asks_to_finish_and_the_second_to_stop_at_once() -> None:
    with Interrupts() as interrupts:
        interrupts.count_only()
        levels = []
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
            levels.append(interrupts.level)
    assert levels == [1, 2, 2]


def test_a_repeated_sigterm_does_not_ask_to_stop_at_once() -> None:
    with Interrupts() as interrupts:
        interrupts.count_only()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupts.level == 1
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.level == 2


def test_a_terminal_that_hangs_up_does_not_ask_to_stop_at_once() -> None:
    """The terminal and the shell both send the signal."""
    with Interrupts() as interrupts:
        interrupts.count_only()
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGHUP)
        assert (interrupts.level, interrupts.preempted) == (1, False)


def test_under_nohup_a_hangup_has_no_effect() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGHUP)
            assert interrupts.level == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_after_a_sigterm_the_run_stops_at_once_when_the_grace_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(interrupts_module.time, "monotonic", lambda: now)
    with Interrupts(grace=30) as interrupts:
        interrupts.count_only()
        os.kill(os.getpid(), signal.SIGINT)
        assert not interrupts.preempted
        now += 50
        os.kill(os.getpid(), signal.SIGTERM)
        assert (interrupts.level, interrupts.preempted) == (1, True)
        now += 20
        # A repeated signal gives no more time.
        os.kill(os.getpid(), signal.SIGTERM)
        now += 9
        assert interrupts.level == 1
        now += 2
        assert interrupts.level == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_before_there_is_anything_to_finish_each_signal_raises(number: int) -> None:
    with pytest.raises(KeyboardInterrupt), Interrupts():
        os.kill(os.getpid(), number)


def test_handlers_are_restored() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Interrupts():
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
