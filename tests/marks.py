"""Marks that workers of the fast fake engine make after each step, and the resume states that they save."""

from __future__ import annotations

from pathlib import Path

STEPS = 8
STOP = 5
"""The step after which the rows of these tests wait, or die."""


def steps_in(marks: Path, rank: int = 0) -> list[list[int]]:
    """The steps that processes of a rank did, in the order of the processes."""
    done: dict[str, list[tuple[int, int]]] = {}
    for file in marks.iterdir():
        step, of_rank, pid = file.name.split(",")
        if int(of_rank) == rank:
            done.setdefault(pid, []).append((file.stat().st_mtime_ns, int(step)))
    in_order = sorted((sorted(steps) for steps in done.values()), key=lambda steps: steps[0])
    return [[step for _, step in steps] for steps in in_order]


def scratch_of(tmp_path: Path) -> list[Path]:
    # What a process was writing when it was killed stays under a hidden name, as everywhere.
    return sorted((tmp_path / "out" / "scratch").glob("[!.]*"))
