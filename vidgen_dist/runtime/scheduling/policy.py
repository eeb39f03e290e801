"""How long scheduling waits. No Ray: code that only passes a policy on need not load it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SupervisorPolicy:
    """How long a supervisor waits, and how many gangs it may lose; times are in seconds.

    Args:
        max_deaths: Gangs that a replica may lose with no row done in between and no row to blame: they cannot
            load the model.
        max_killed: Gangs that a replica may lose with no row done in between, each with another row, see
            `RowQueue`. Rows that kill a gang often have neighbours that do, too; a replica that is itself at
            fault loses a gang with every row, and ends after this many.
        max_killed_first: The same for a replica that has not done a row yet: nothing shows that it can.
        poll_seconds: A worker answers a poll within this time, whether or not it has something to report.
        look_seconds: Between two checks of all gangs.
        start_seconds: How long there may be no gang that has a place to run: a cluster that grows takes
            minutes for a node.
        place_seconds: After this time, the progress line mentions a gang that still has no place.
        gather_seconds: From the first member with a placement to the last with an open rendezvous.
        blame_seconds: How long a gang that reports a breakdown is kept: if a member died, Ray says so, and
            why, a moment later.
        stop_seconds: For an immediate stop; only videos that are being stored are finished.
        last_words_seconds: For the leader of a lost gang to finish its writing.
        answer_seconds: A leader whose answer is this late is not told to finish anything.
        node_seconds: Within this time, Ray must say what became of an unreachable member: Ray notices a lost
            node after some 15 s.
        ask_seconds: After this time, an unreachable member is polled again: Ray refuses such a call at once.
        death_seconds: Within this time, Ray must report the death of a leader that was killed.
        linger_seconds: How long a process may write after Ray reports its death. Ray reports it when it has
            asked the process to end, which took up to 190 ms, and kills one that does not obey after 5 s.
    """

    max_deaths: int = 3
    max_killed: int = 32
    max_killed_first: int = 4
    poll_seconds: float = 5.0
    look_seconds: float = 0.25
    start_seconds: float = 1800.0
    place_seconds: float = 10.0
    gather_seconds: float = 600.0
    blame_seconds: float = 2.0
    stop_seconds: float = 20.0
    last_words_seconds: float = 10.0
    answer_seconds: float = 5.0
    node_seconds: float = 30.0
    ask_seconds: float = 1.0
    death_seconds: float = 10.0
    linger_seconds: float = 6.0
