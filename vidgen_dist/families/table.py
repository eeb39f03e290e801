"""The documentation's table of families."""

from __future__ import annotations

from vidgen_dist.families import FAMILIES


def families_table() -> str:
    """The families as a Markdown table: published checkpoints that were tried, tasks, and own fields."""
    lines = ["| family | checkpoints such as | tasks | columns of its own |", "|---|---|---|---|"]
    for family in FAMILIES:
        checkpoints = ", ".join(f"`{model}`" for model in family.published)
        tasks = ", ".join(dict.fromkeys(pipeline.task for pipeline in family.pipelines))
        own = ", ".join(f"`{name}`" for name in family.fields) or "none"
        lines.append(f"| {family.name} | {checkpoints} | {tasks} | {own} |")
    return "\n".join(lines)
