"""The output of `vidgen inspect` for a checkpoint: JSON with plain numbers, or lines and tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.table import Table

from vidgen_dist.planner.checkpoint_facts import CheckpointFacts, GangFacts, TaskFacts
from vidgen_dist.planner.devices import in_words
from vidgen_dist.planner.report import small_table
from vidgen_dist.planner.splits import LARGEST_GANG
from vidgen_dist.weights.stored import StoredWeights
from vidgen_dist.yaml_core import in_line


def as_json(facts: CheckpointFacts) -> dict[str, Any]:
    """Everything as plain values."""
    return {"kind": "checkpoint", **asdict(facts)}


def summary(facts: CheckpointFacts) -> Iterator[tuple[str, str]]:
    """Names and values in a line each."""
    yield "checkpoint", facts.model
    if facts.revision is not None:
        yield "commit", facts.revision
    yield "family", f"{facts.family} ({facts.pipeline})"
    yield "tasks", ", ".join(task.task for task in facts.tasks)
    if facts.contract is not None:
        yield "contract", facts.contract
    elsewhere = [
        part.name
        for part in facts.components
        if (part.parameters is not None if part.stored is None else not part.stored.downloaded)
    ]
    yield "weights", f"not on this machine: {', '.join(elsewhere)}" if elsewhere else "on this machine"
    gangs = ", ".join(map(_gang, facts.gangs))
    yield "smallest", f"gang for one {facts.tasks[0].task} of its own size: {gangs}"


def _gang(gang: GangFacts) -> str:
    ranks = f"none of up to {LARGEST_GANG}" if gang.ranks is None else str(gang.ranks)
    return f"{ranks} on {gang.device} ({gang.dtype})"


def tables(facts: CheckpointFacts) -> Iterator[Table]:
    """Components, and what each task takes."""
    yield _components(facts)
    for task in facts.tasks:
        yield _fields(task)


def _components(facts: CheckpointFacts) -> Table:
    table = small_table("Components", "parameters", f"in {facts.dtype}", "files")
    _add_text(table, "class")
    for part in facts.components:
        table.add_row(
            part.name,
            "-" if part.parameters is None else f"{part.parameters:,}",
            "-" if part.bytes is None else in_words(part.bytes),
            "-" if part.stored is None else _stored(part.stored),
            part.class_name,
        )
    return table


def _stored(stored: StoredWeights) -> str:
    return f"{in_words(stored.bytes)} {'+'.join(stored.parameters)}"


def _fields(task: TaskFacts) -> Table:
    table = small_table(f"A row for {task.task}", "default", first="field")
    _add_text(table, "takes")
    for taken in task.fields:
        default = "needed" if taken.required else "-" if taken.default is None else in_line(taken.default)
        table.add_row(taken.name, default, taken.takes)
    return table


def _add_text(table: Table, name: str) -> None:
    """Add a last column of texts, which may be broken into lines."""
    table.add_column(name, overflow="fold")
