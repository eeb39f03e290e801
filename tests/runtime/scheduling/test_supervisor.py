"""The supervisor with simulated gangs and clock: which gang gets which row; none is lost or done twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

from tests.runtime.scheduling.simulation import NEVER, Actor, GangBehaviour, Simulation
from vidgen_dist.runtime.scheduling.policy import SupervisorPolicy
from vidgen_dist.runtime.scheduling.supervisor import RunStopped

POLICY = SupervisorPolicy()


def spread(seed: int, count: int, *, slow: int = 0) -> Callable[[str, int], float]:
    """Seconds of rows around a minute; the first replicas are three times as slow."""
    seconds = np.random.default_rng(seed).lognormal(np.log(60), 0.3, count)
    return lambda row_id, replica: seconds[int(row_id)] * (3 if replica < slow else 1)


def lives(seed: int, mean: float) -> Callable[[str], float]:
    rng = np.random.default_rng(seed)
    return lambda _: rng.exponential(mean)


def all_of(count: int) -> set[str]:
    return {str(i) for i in range(count)}


def test_gangs_are_busy_until_the_last_rows() -> None:
    """Some are slow, some die; each row is done once."""
    count = 50 * 100
    behaviour = GangBehaviour(render=spread(1, count, slow=3), life=lives(2, 20_000))
    cluster = Simulation(behaviour, {"n": 50})
    cluster.supervisor(count, 50).work()
    assert set(cluster.done_at) == all_of(count)
    assert len(cluster.actors) > 55
    assert cluster.busy_share() >= 0.98
    # If no rows were asked back, a slow gang would keep a shard of rows of three minutes each to itself.
    assert cluster.tail() < 2 * 3 * 60 * 2


def test_idle_gangs_take_what_a_slow_one_has_not_begun() -> None:
    cluster = Simulation(
        GangBehaviour(render=lambda _, replica: 10_000.0 if replica == 0 else 60.0), {"n": 2}
    )
    cluster.supervisor(40, 2).work()
    slow, quick = cluster.actors
    assert (len(slow.busy), len(quick.busy)) == (1, 39)
    assert set(cluster.done_at) == all_of(40)
    # The quick one had rendered all of them long before the slow one was done.
    assert max(end for _, end in quick.busy) < 39 * 60 + 2 * 60


class DyingLenders(Simulation):
    """Gangs that die when they are asked for rows, before or after they have given them back."""

    def __init__(self, *arguments: Any, given_back: bool) -> None:
        super().__init__(*arguments)
        self.given_back = given_back
        self.died = 0

    def _give_back(self, actor: Actor, at: float, count: int) -> None:
        if self.given_back:
            # The report does not arrive: the poll stays unanswered.
            polled_at, actor.polled_at = actor.polled_at, None
            super()._give_back(actor, at, count)
            actor.polled_at = polled_at
        self.died += 1
        self._end(actor, at)


@pytest.mark.parametrize("given_back", [False, True])
def test_a_gang_that_dies_when_it_is_asked_for_rows_loses_none(given_back: bool) -> None:
    behaviour = GangBehaviour(render=lambda _, replica: 600.0 if replica == 0 else 60.0)
    cluster = DyingLenders(behaviour, {"n": 3}, given_back=given_back)
    cluster.supervisor(60, 3).work()
    assert cluster.died
    assert set(cluster.done_at) == all_of(60)
    assert not cluster.given_up


def test_a_node_that_leaves_counts_against_no_row_and_no_replica() -> None:
    """Nodes leave more often than a row or replica may lose its gang, each time during the same row."""
    cluster = Simulation(GangBehaviour(render=lambda *_: 600.0), {"n0": 1})

    def leave(at: float, number: int = 0) -> None:
        cluster.leave(f"n{number}")
        cluster.at(at + 100, lambda _: cluster.join(f"n{number + 1}", 1))
        if number < POLICY.max_deaths:
            cluster.at(at + 400, lambda at: leave(at, number + 1))

    cluster.at(300.0, leave)
    cluster.supervisor(3, 1).work()
    assert set(cluster.done_at) == all_of(3)
    assert len(cluster.actors) == POLICY.max_deaths + 2
    assert all(len(actor.busy) == 1 for actor in cluster.actors[:-1])


def test_a_node_that_joins_gets_work() -> None:
    cluster = Simulation(GangBehaviour(render=lambda *_: 60.0), {"n": 1})
    cluster.at(600.0, lambda _: cluster.join("late", 2))
    cluster.supervisor(60, 3).work()
    assert set(cluster.done_at) == all_of(60)
    assert [len(actor.busy) > 10 for actor in cluster.on("late")] == [True, True]
    assert cluster.busy_share() > 0.98


def test_a_run_waits_for_a_place_as_long_as_a_cluster_may_take() -> None:
    cluster = Simulation(GangBehaviour(render=lambda *_: 60.0), {"n": 1})
    cluster.at(300.0, lambda _: cluster.leave("n"))
    with pytest.raises(RunStopped, match="no worker found a place within 1800 s: a replica needs 1 places"):
        cluster.supervisor(60, 1).work()
    assert cluster.now > 300 + POLICY.start_seconds
    assert len(cluster.done_at) == 3


@pytest.mark.parametrize("seed", range(8))
def test_whenever_gangs_die_every_row_is_done_once_or_given_up(seed: int) -> None:
    count, replicas = 200, 7
    rng = np.random.default_rng(seed)
    killers = frozenset(str(i) for i in rng.choice(count, 5, replace=False))
    behaviour = GangBehaviour(
        render=spread(seed, count, slow=2), life=lives(seed, 2_000), killers=killers, write=float(seed)
    )
    cluster = Simulation(behaviour, {"a": 4, "b": 4})
    cluster.at(600.0, lambda _: cluster.leave("a"))
    cluster.at(900.0, lambda _: cluster.join("c", 3))
    cluster.supervisor(count, replicas).work()
    assert killers <= set(cluster.given_up)
    assert set(cluster.done_at) | set(cluster.given_up) == all_of(count)
    assert len(cluster.done_at) + len(cluster.given_up) == count
    # A row whose gangs died three times by chance is given up, too, but that is rare.
    assert len(cluster.given_up) <= len(killers) + 1


def test_rows_that_take_no_time_are_all_done() -> None:
    cluster = Simulation(GangBehaviour(render=lambda *_: 0.0, write=0.0, life=lambda _: NEVER), {"n": 64})
    cluster.supervisor(5_000, 64).work()
    assert set(cluster.done_at) == all_of(5_000)


@pytest.mark.parametrize(
    ("count", "killing"),
    [(200, range(20)), (200, range(90, 110)), (200, range(180, 200)), (5, (0, 3, 4))],
)
def test_rows_that_kill_one_after_the_other_do_not_end_a_replica(count: int, killing: Iterable[int]) -> None:
    """Neither the first rows, with nothing done before them, nor the last ones."""
    killers = frozenset(str(i) for i in killing)
    cluster = Simulation(GangBehaviour(render=lambda *_: 1.0, killers=killers, load=1.0, write=0.1), {"n": 1})
    cluster.supervisor(count, 1).work()
    assert set(cluster.given_up) == killers
    assert set(cluster.done_at) == all_of(count) - killers


def test_a_gang_that_is_lost_with_the_last_row_is_not_replaced() -> None:
    cluster = Simulation(GangBehaviour(render=lambda *_: 1.0, killers=frozenset("0")), {"n": 1})
    cluster.supervisor(1, 1).work()
    assert set(cluster.given_up) == {"0"}
    # One for each attempt.
    assert len(cluster.actors) == 3


class NeverLoading(Simulation):
    """Gangs that die while they load the model."""

    def _start(self, actor: Actor, at: float, _cores: object) -> None:
        self.at(at + self.behaviour.load, lambda at: self._end(actor, at))


def test_a_model_that_never_loads_ends_the_run() -> None:
    cluster = NeverLoading(GangBehaviour(render=lambda *_: 1.0), {"n": 1})
    with pytest.raises(RunStopped, match="no worker can be kept alive: the worker it died"):
        cluster.supervisor(10, 1).work()
    assert len(cluster.actors) == POLICY.max_deaths
    assert not cluster.done_at
    assert not cluster.given_up


@pytest.mark.parametrize(("good", "most"), [(0, POLICY.max_killed_first), (30, POLICY.max_killed + 1)])
def test_a_replica_that_dies_with_every_row_ends_and_no_row_is_given_up(good: int, most: int) -> None:
    killers = frozenset(str(i) for i in range(good, 10_000))
    cluster = Simulation(GangBehaviour(render=lambda *_: 1.0, killers=killers, load=1.0, write=0.1), {"n": 1})
    with pytest.raises(RunStopped, match="no worker can be kept alive"):
        cluster.supervisor(10_000, 1).work()
    # The last one may have been on its way to the storage.
    assert all_of(good - 1) <= set(cluster.done_at) <= all_of(good)
    assert not cluster.given_up
    assert len(cluster.actors) <= most
