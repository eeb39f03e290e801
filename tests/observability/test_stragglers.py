"""What counts as a straggler: by shape, by gang, and not too soon."""

from __future__ import annotations

from typing import Any

from tests.fake_engine import resolved
from vidgen_dist.observability.stragglers import ENOUGH, Paces
from vidgen_dist.request import ResolvedRequest


def request(row: str, **fields: Any) -> ResolvedRequest:
    sampling = {"height": 16, "width": 16, "num_frames": 9, "num_inference_steps": 50, "guidance_scale": 6.0}
    return resolved(**{"id": row, **sampling, **fields})


class Clock:
    """Gangs that render one row after the other."""

    def __init__(self) -> None:
        self.paces = Paces()
        self.now = 0.0
        self.rows = 0

    def render(self, gang: str, seconds: float, *, done: bool = True, **fields: Any) -> None:
        self.rows += 1
        row = str(self.rows)
        self.paces.started(gang, request(row, **fields), self.now)
        self.now += seconds
        self.paces.rendered(gang, row, self.now)
        self.paces.ended(gang, row, done=done)


def test_a_row_that_takes_far_longer() -> None:
    clock = Clock()
    for _ in range(ENOUGH):
        clock.render("a", 60)
    clock.paces.started("a", request("slow"), clock.now)
    assert clock.paces.slow_rows(clock.now + 110) == []
    (slow,) = clock.paces.slow_rows(clock.now + 130)
    assert (slow.row, slow.gang, slow.seconds, slow.usual_seconds) == ("slow", "a", 130, 60)
    clock.paces.rendered("a", "slow", clock.now + 130)
    assert clock.paces.slow_rows(clock.now + 130) == []


def test_rows_of_another_shape_are_no_measure() -> None:
    clock = Clock()
    for _ in range(ENOUGH):
        clock.render("a", 60)
    # How many steps a clip's strength leaves, the request says.
    larger = ({"height": 32}, {"num_frames": 17}, {"num_inference_steps": 100}, {"num_inference_steps": 25})
    for number, fields in enumerate(larger):
        clock.paces.started(f"gang {number}", request(str(number), **fields), clock.now)
    assert clock.paces.slow_rows(clock.now + 1000) == []
    # Guidance is on or off; how strong it is costs nothing.
    clock.paces.started("b", request("b", guidance_scale=7.5), clock.now)
    clock.paces.started("c", request("c", guidance_scale=1.0), clock.now)
    assert [slow.row for slow in clock.paces.slow_rows(clock.now + 1000)] == ["b"]


def test_few_rows_are_no_measure() -> None:
    clock = Clock()
    for _ in range(ENOUGH - 1):
        clock.render("a", 60)
    clock.paces.started("a", request("slow"), clock.now)
    assert clock.paces.slow_rows(clock.now + 1000) == []


def test_rows_that_failed_are_no_measure() -> None:
    clock = Clock()
    for _ in range(ENOUGH):
        clock.render("a", 60)
        clock.render("a", 0.1, done=False)
        clock.render("a", 0.1, done=False)
    clock.paces.started("a", request("fine"), clock.now)
    assert clock.paces.slow_rows(clock.now + 60) == []


def test_a_slow_gang_among_others() -> None:
    clock = Clock()
    for _ in range(3 * ENOUGH):
        for gang in ("a", "b", "c"):
            clock.render(gang, 60)
        clock.render("slow", 120)
    (slow,) = clock.paces.slow_gangs()
    assert slow.gang == "slow"
    assert 1.8 < slow.times < 2.0
    # One that has recovered, and one that is no more.
    for _ in range(ENOUGH):
        clock.render("slow", 60)
    assert clock.paces.slow_gangs() == []


def test_one_slow_row_makes_no_slow_gang() -> None:
    clock = Clock()
    for _ in range(2 * ENOUGH):
        clock.render("a", 60)
        clock.render("b", 60)
    clock.render("b", 6000)
    assert clock.paces.slow_gangs() == []


def test_short_rows_may_vary() -> None:
    clock = Clock()
    for _ in range(2 * ENOUGH):
        clock.render("a", 0.1)
        clock.render("b", 0.5)
    clock.paces.started("a", request("slow"), clock.now)
    assert clock.paces.slow_rows(clock.now + 5) == []
    assert clock.paces.slow_gangs() == []


def test_gangs_that_are_no_more_are_forgotten() -> None:
    clock = Clock()
    for _ in range(2 * ENOUGH):
        clock.render("a", 60)
        clock.render("lost", 600)
    clock.paces.started("lost", request("x"), clock.now)
    assert clock.paces.slow_gangs()
    assert clock.paces.slow_rows(clock.now + 10_000)
    clock.paces.keep({"a"})
    assert clock.paces.slow_gangs() == []
    assert clock.paces.slow_rows(clock.now + 10_000) == []
    # What comes too late harms nobody.
    clock.paces.rendered("lost", "x", clock.now)
    clock.paces.ended("lost", "x", done=True)
