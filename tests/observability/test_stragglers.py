"""Which rows and gangs are stragglers: by shape, by gang, and not too soon."""

from __future__ import annotations

from typing import Any

from tests.fake_engine import resolved
from vidgen_dist.observability.stragglers import RowTimes, StragglerPolicy
from vidgen_dist.request import ResolvedRequest

MIN_ROWS = StragglerPolicy.min_rows


def request(row: str, **fields: Any) -> ResolvedRequest:
    sampling = {"height": 16, "width": 16, "num_frames": 9, "num_inference_steps": 50, "guidance_scale": 6.0}
    return resolved(**{"id": row, **sampling, **fields})


class Clock:
    """Gangs that render one row after the other."""

    def __init__(self) -> None:
        self.times = RowTimes()
        self.now = 0.0
        self.rows = 0

    def render(self, gang: str, seconds: float, *, done: bool = True, **fields: Any) -> None:
        self.rows += 1
        row = str(self.rows)
        self.times.start(gang, request(row, **fields), self.now)
        self.now += seconds
        self.times.render(gang, row, self.now)
        self.times.end(gang, row, done=done)


def test_a_row_that_takes_far_longer_than_usual_is_a_straggler() -> None:
    clock = Clock()
    for _ in range(MIN_ROWS):
        clock.render("a", 60)
    clock.times.start("a", request("slow"), clock.now)
    assert clock.times.slow_rows(clock.now + 110) == []
    (slow,) = clock.times.slow_rows(clock.now + 130)
    assert (slow.row, slow.gang, slow.seconds, slow.usual_seconds) == ("slow", "a", 130, 60)
    clock.times.render("a", "slow", clock.now + 130)
    assert clock.times.slow_rows(clock.now + 130) == []


def test_a_row_is_not_compared_with_rows_of_another_shape() -> None:
    clock = Clock()
    for _ in range(MIN_ROWS):
        clock.render("a", 60)
    # The request says how many steps remain for a clip's strength.
    larger = ({"height": 32}, {"num_frames": 17}, {"num_inference_steps": 100}, {"num_inference_steps": 25})
    for number, fields in enumerate(larger):
        clock.times.start(f"gang {number}", request(str(number), **fields), clock.now)
    assert clock.times.slow_rows(clock.now + 1000) == []
    # Guidance is on or off; its strength does not change the time.
    clock.times.start("b", request("b", guidance_scale=7.5), clock.now)
    clock.times.start("c", request("c", guidance_scale=1.0), clock.now)
    assert [slow.row for slow in clock.times.slow_rows(clock.now + 1000)] == ["b"]


def test_a_row_is_not_compared_with_too_few_rows() -> None:
    clock = Clock()
    for _ in range(MIN_ROWS - 1):
        clock.render("a", 60)
    clock.times.start("a", request("slow"), clock.now)
    assert clock.times.slow_rows(clock.now + 1000) == []


def test_a_row_is_not_compared_with_rows_that_failed() -> None:
    clock = Clock()
    for _ in range(MIN_ROWS):
        clock.render("a", 60)
        clock.render("a", 0.1, done=False)
        clock.render("a", 0.1, done=False)
    clock.times.start("a", request("fine"), clock.now)
    assert clock.times.slow_rows(clock.now + 60) == []


def test_a_gang_slower_than_the_others_is_a_straggler_until_it_recovers() -> None:
    clock = Clock()
    for _ in range(3 * MIN_ROWS):
        for gang in ("a", "b", "c"):
            clock.render(gang, 60)
        clock.render("slow", 120)
    (slow,) = clock.times.slow_gangs()
    assert slow.gang == "slow"
    assert 1.8 < slow.times < 2.0
    for _ in range(MIN_ROWS):
        clock.render("slow", 60)
    assert clock.times.slow_gangs() == []


def test_one_slow_row_makes_no_slow_gang() -> None:
    clock = Clock()
    for _ in range(2 * MIN_ROWS):
        clock.render("a", 60)
        clock.render("b", 60)
    clock.render("b", 6000)
    assert clock.times.slow_gangs() == []


def test_short_rows_may_vary() -> None:
    clock = Clock()
    for _ in range(2 * MIN_ROWS):
        clock.render("a", 0.1)
        clock.render("b", 0.5)
    clock.times.start("a", request("slow"), clock.now)
    assert clock.times.slow_rows(clock.now + 5) == []
    assert clock.times.slow_gangs() == []


def test_lost_gangs_are_forgotten() -> None:
    clock = Clock()
    for _ in range(2 * MIN_ROWS):
        clock.render("a", 60)
        clock.render("lost", 600)
    clock.times.start("lost", request("x"), clock.now)
    assert clock.times.slow_gangs()
    assert clock.times.slow_rows(clock.now + 10_000)
    clock.times.keep({"a"})
    assert clock.times.slow_gangs() == []
    assert clock.times.slow_rows(clock.now + 10_000) == []
    # Late reports do no harm.
    clock.times.render("lost", "x", clock.now)
    clock.times.end("lost", "x", done=True)
