"""A run seen from its output alone, again and again, until it has ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vidgen_dist.maintenance.status import open_output
from vidgen_dist.output.lease import has_died, living_holder
from vidgen_dist.output.status_file import RunStatus, StatusPolicy, read_status_file
from vidgen_dist.storage.folder import Storage


@dataclass(frozen=True)
class Sighting:
    """How an output's run stands.

    Args:
        run: The run that is at work, by its latest status; None if it has not reported yet.
        name: The run's name; empty if the storage did not answer.
        fault: Why the storage did not answer.
    """

    run: RunStatus | None = None
    name: str = ""
    fault: str = ""


def watch(
    uri: str, seconds: float | None = None, wait: Callable[[float], None] = time.sleep
) -> Iterator[Sighting]:
    """See how a run stands now and then, as long as one is at work.

    A storage that does not answer for a while is asked again.

    Args:
        uri: Output of a run.
        seconds: Between two looks; by default as often as the run writes its status.
        wait: Waits for so many seconds.

    Raises:
        Refused: There is no run's output.
    """
    output, _ = open_output(uri)
    usual = StatusPolicy.local_seconds
    while True:
        try:
            sighting = _look(output)
        except OSError as error:
            sighting = Sighting(fault=str(error))
        if sighting is None:
            return
        if sighting.run is not None:
            usual = sighting.run.refresh_seconds
        yield sighting
        wait(seconds or usual)


def _look(output: Storage) -> Sighting | None:
    """The run that is at work on an output; None if none is."""
    run = read_status_file(output)
    if run is not None and run.is_live and not has_died(output, run.run):
        return Sighting(run, run.run)
    # A run takes the lease some time before it writes its first status, and keeps it after its last one.
    holder = living_holder(output)
    if holder is None or (run is not None and holder.run == run.run):
        return None
    return Sighting(name=holder.run)
