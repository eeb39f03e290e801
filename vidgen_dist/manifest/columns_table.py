"""The documentation's table of a manifest's columns."""

from __future__ import annotations

from collections.abc import Mapping

from vidgen_dist.manifest.columns import PRIORITY
from vidgen_dist.request import FIELDS, Field


def columns_table(fields: Mapping[str, Field] = FIELDS) -> str:
    """A Markdown table of the columns, one a line, from the declarations of these fields."""
    rows = [(name, field.kind.name, field.about) for name, field in fields.items()]
    rows.append((PRIORITY, "whole number (int64)", "rows with a higher one are rendered first; 0 by default"))
    lines = [f"| `{name}` | {kind} | {about} |" for name, kind, about in rows]
    return "\n".join(["| column | type | what it is |", "|---|---|---|", *lines])
