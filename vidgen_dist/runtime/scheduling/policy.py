"""How patient scheduling is. No Ray: who hands a policy in need not load it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SupervisorPolicy:
    """How long a supervisor waits, and how many gangs it may lose; times are in seconds.

    Args:
        max_deaths: Gangs that a replica may lose with no row done in between and no row to blame: they cannot
            load the model.
        max_killed: Gangs that a replica may lose with no row done in between, each with another row, see
            `RowQueue`. Rows that kill often have neighbours that do; a replica that is at fault loses a
            gang with every row, and ends after so many.
        max_killed_first: The same for a replica that has done no row yet: nothing says that it can do any.
        poll_seconds: A worker answers within this time, with or without news.
        look_seconds: Between two looks at all gangs.
        start_seconds: How long there may be no gang that has a place to run: a cluster that grows takes
            minutes for a node.
        place_seconds: After it, a gang that has no place yet is mentioned.
        gather_seconds: From the first member that has a place to the last that has opened a rendezvous.
        blame_seconds: How long a gang that says it is broken is kept: if a member died, Ray says so, and why,
            a moment later.
        stop_seconds: For an immediate stop; only videos that are being stored are finished.
        last_words_seconds: For the leader of a lost gang to finish its writing.
        answer_seconds: A leader whose answer is this late is not told to finish anything.
        node_seconds: Within it, Ray must say what became of a member that is out of reach: Ray misses a node
            after some 15 s.
        ask_seconds: After it, a member that is out of reach is asked again: Ray refuses such a call at once.
        death_seconds: Within it, Ray must say that a leader that was killed is dead.
        linger_seconds: How long a process may write after Ray says that it is dead. Ray says so when it has
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
