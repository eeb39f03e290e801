"""The documentation's table of families."""

from __future__ import annotations

from vidgen_dist.families import FAMILIES


def families_table() -> str:
    """The families in Markdown: published checkpoints that were looked at, tasks, and fields of their own."""
    lines = ["| family | checkpoints such as | tasks | columns of its own |", "|---|---|---|---|"]
    for family in FAMILIES:
        checkpoints = ", ".join(f"`{model}`" for model in family.published)
        tasks = ", ".join(dict.fromkeys(pipeline.task for pipeline in family.pipelines))
        own = ", ".join(f"`{name}`" for name in family.fields) or "none"
        lines.append(f"| {family.name} | {checkpoints} | {tasks} | {own} |")
    return "\n".join(lines)
