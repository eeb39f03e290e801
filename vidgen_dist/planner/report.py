"""The output of `vidgen plan`: JSON with plain bytes and seconds, or tables for a person."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.table import Table

from vidgen_dist.families.common.costs import ITEM_SIZES
from vidgen_dist.planner.devices import in_words
from vidgen_dist.planner.planned_run import SplitPlan
from vidgen_dist.planner.splits import Split, describe


def as_json(plan: SplitPlan) -> dict[str, Any]:
    """Everything as plain values."""
    run, comparison = plan.run, plan.comparison
    return {
        "model": run.model,
        "family": run.family,
        "task": plan.task,
        "dtype": run.dtype,
        "device": asdict(run.device),
        "memory": run.memory,
        "npus": plan.npus,
        "rows": plan.rows,
        "video": asdict(run.work),
        "components": [
            {
                "name": part.name,
                "parameters": part.parameters,
                "bytes": part.parameters * ITEM_SIZES[run.dtype],
                "blocks": len(part.blocks),
                "block_parameters": part.largest_block,
                "table_parameters": part.tables,
                "undivided_parameters": part.rest,
            }
            for part in run.size.components
        ],
        "smallest_gang": comparison.smallest,
        "chosen": _split(comparison.chosen),
        "reason": comparison.reason,
        "asked": None if plan.asked is None else _split(plan.asked),
        "splits": [_split(split) for split in comparison.splits],
    }


def _split(split: Split) -> dict[str, Any]:
    one = split.estimate
    return {
        "replicas": split.replicas,
        "gang": split.degrees.size,
        **asdict(split.degrees),
        "fits": one.fits,
        "memory": {
            "weights": dict(one.memory.weights),
            "stages": dict(one.memory.stages),
            "peak": one.memory.peak,
            "usable": one.usable,
        },
        "sent_per_step": dict(one.sent),
        "seconds": {**asdict(one.seconds), "step": one.seconds.step, "video": one.seconds.video},
        "videos_per_hour": split.videos_per_hour,
    }


def tables(plan: SplitPlan) -> Iterator[Table]:
    """Components, what a rank holds, what it sends, and the splits."""
    yield _components(plan)
    yield _memory(plan)
    yield _sent(plan)
    yield _splits(plan)


def summary(plan: SplitPlan) -> Iterator[str]:
    """The result in sentences."""
    run, work = plan.run, plan.run.work
    guided = "guided" if work.guided else "without guidance"
    yield (
        f"video: {work.frames} frames of {work.height}x{work.width}, {work.steps} steps, {guided}: "
        f"{work.tokens:,} video and {work.text_tokens:,} text tokens"
    )
    yield f"planned for {plan.npus:,} x {run.device.name}; --device-name and --npus change that"
    yield f"smallest gang whose ranks fit into {in_words(run.memory)} each: {plan.comparison.smallest}"
    if plan.asked is not None:
        asked = plan.asked
        yield (
            f"the run asks for {describe(asked.degrees, asked.replicas)}: "
            f"{asked.videos_per_hour:,.1f} videos an hour, each in {asked.estimate.seconds.video:.1f} s"
        )
    yield f"take {plan.comparison.reason}"


def flags_of(split: Split) -> list[str]:
    """The flags of `vidgen render` that ask for a split."""
    degrees = {name: degree for name, degree in asdict(split.degrees).items() if degree > 1}
    return [f"--{name} {count}" for name, count in {"replicas": split.replicas, **degrees}.items()]


def _components(plan: SplitPlan) -> Table:
    run = plan.run
    table = small_table(
        f"{run.model}, {plan.task}", "parameters", run.dtype, "blocks", "largest block", "outside blocks"
    )
    item = ITEM_SIZES[run.dtype]
    for part in run.size.components:
        table.add_row(
            part.name,
            f"{part.parameters:,}",
            in_words(part.parameters * item),
            str(len(part.blocks) or "-"),
            in_words(part.largest_block * item) if part.blocks else "-",
            in_words(part.rest * item),
        )
    return table


def _memory(plan: SplitPlan) -> Table:
    """One row per gang size, for the fastest way to divide it."""
    best: dict[int, Split] = {}
    for split in plan.comparison.splits:
        best.setdefault(split.degrees.size, split)
    one = plan.comparison.chosen.estimate
    table = small_table(
        f"A rank holds, of {in_words(one.usable)} that it may use",
        *one.memory.weights,
        *(f"+ {stage}" for stage in one.memory.stages),
        "peak",
        "fits",
        first="gang",
    )
    for size, split in sorted(best.items()):
        use = split.estimate.memory
        cells = [*use.weights.values(), *use.stages.values(), use.peak]
        table.add_row(str(size), *map(in_words, cells), _yes(split.estimate.fits))
    return table


def _sent(plan: SplitPlan) -> Table:
    """One row per way to divide a gang of more than one rank."""
    splits = [split for split in plan.comparison.splits if split.degrees.size > 1]
    purposes = plan.comparison.chosen.estimate.sent
    title = "What a rank sends in a step, by how its gang is divided"
    table = small_table(title, "ring", "cfg", *(f"{purpose}:" for purpose in purposes), first="ulysses")
    for split in splits:
        sent = split.estimate.sent.values()
        table.add_row(*map(str, asdict(split.degrees).values()), *map(in_words, sent))
    return table


def _splits(plan: SplitPlan) -> Table:
    columns = ("ulysses", "ring", "cfg", "step s", "waiting s", "video s", "videos/h", "fits")
    title = f"Splits of {plan.npus:,} x {plan.run.device.name}, best first"
    table = small_table(title, *columns, first="replicas")
    for split in plan.comparison.splits:
        seconds = split.estimate.seconds
        table.add_row(
            f"{split.replicas:,}",
            *map(str, asdict(split.degrees).values()),
            f"{seconds.step:,.3f}",
            f"{seconds.waiting:,.3f}",
            f"{seconds.video:,.1f}",
            f"{split.videos_per_hour:,.1f}",
            _yes(split.estimate.fits),
        )
    return table


def _yes(whether: bool) -> str:
    return "yes" if whether else "no"


def small_table(title: str, *columns: str, first: str = "component") -> Table:
    """A table that fits into 80 columns."""
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(first, no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table
