"""What a card of the gallery shows of a row: texts for people, and the numbers it is sorted by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vidgen_dist import ledger
from vidgen_dist.errors import shortened
from vidgen_dist.maintenance.report.previews import Preview
from vidgen_dist.maintenance.report.survey import STAGES
from vidgen_dist.maintenance.report.texts import count, duration, file_size
from vidgen_dist.provenance import shown_model

_MOST_MESSAGE = 400
_MOST_PROMPT = 2000

_FIGURE_NAMES = {
    "mean_luma": "brightness",
    "motion": "motion",
    "clipped": "clipped",
    "noisiness": "noisiness",
}
"""Column of the ledger -> what people call it."""


@dataclass(frozen=True)
class Card:
    """A row in the gallery.

    Args:
        number: Its place in the report, from 0.
        id: The row's id.
        status: `done`, `failed` or `lost`.
        flags: What seems wrong with its video.
        prompt: Its prompt; None if it is not known.
        error: Error class and message; None for a video.
        preview: Its poster and video.
        alt: What the poster shows, for those who do not see it.
        size: Width and height of the video, in pixels; None if they are not known.
        facts: Name and value of what is shown at once.
        details: Name and value of what is shown when it is asked for.
        seconds: How long it took; None if that is not known.
        finished_at: When it ended, in microseconds since 1970.
        figures: The figures of its quality, in the order of `_FIGURE_NAMES`.
    """

    number: int
    id: str
    status: str
    flags: tuple[str, ...]
    prompt: str | None
    error: tuple[str, str] | None
    preview: Preview
    alt: str
    size: tuple[int, int] | None
    facts: Sequence[tuple[str, str]]
    details: Sequence[tuple[str, str]]
    seconds: float | None
    finished_at: int
    figures: tuple[float | None, ...]


def make_card(number: int, row: Mapping[str, Any], prompt: str | None, preview: Preview) -> Card:
    """The card of a row.

    Args:
        number: Its place in the report, from 0.
        row: Its entry in the ledger.
        prompt: Its prompt, if it is known.
        preview: Its poster and video.
    """
    done = row["status"] == ledger.DONE
    stages = {stage: row[f"seconds_{stage}"] for stage in STAGES if row[f"seconds_{stage}"] is not None}
    seconds = sum(stages.values()) if stages else None
    size = (row["width"], row["height"]) if row["width"] and row["height"] else None
    length = row["frames"] / row["fps"] if row["frames"] and row["fps"] else None
    facts = {
        "seed": None if row["seed"] is None else str(row["seed"]),
        "rendered in": None if seconds is None else duration(seconds),
        "length": None if length is None else f"{duration(length)}, {count(row['frames'], 'frame')}",
        "LoRA": ", ".join(shown_lora(lora) for lora in row["loras"] or ()) or None,
    }
    details = {
        "id": row["id"],
        "size": size and f"{size[0]} × {size[1]}, {row['fps']:g} fps",
        "file": None if row["bytes"] is None else file_size(row["bytes"]),
        **{stage: duration(value) for stage, value in stages.items()},
        **{shown: _figure(row[name]) for name, shown in _FIGURE_NAMES.items()},
        "model": row["model"] and shown_model(row["model"], row["revision"]),
        "attempt": str(row["attempt"]),
        "ended": f"{row['finished_at']:%Y-%m-%d %H:%M:%S} UTC",
        "fingerprint": row["fingerprint"],
    }
    return Card(
        number=number,
        id=row["id"],
        status=row["status"],
        flags=tuple(row["flags"] or ()),
        prompt=None if prompt is None else shortened(prompt, _MOST_PROMPT),
        error=None
        if done
        else (row["error_class"] or "", shortened(row["error_message"] or "", _MOST_MESSAGE)),
        preview=preview,
        alt=f"A frame of the video of: {shortened(prompt, 150)}" if prompt else f"A frame of {row['id']}",
        size=size,
        facts=[(name, value) for name, value in facts.items() if value is not None],
        details=[(name, value) for name, value in details.items() if value],
        seconds=seconds,
        finished_at=int(row["finished_at"].timestamp() * 1e6),
        figures=tuple(row[name] for name in _FIGURE_NAMES),
    )


def shown_lora(lora: Mapping[str, Any]) -> str:
    """A LoRA of a row or a run file in a form for others, with its scale."""
    name = shown_model(lora["id"], lora["revision"])
    return name if lora["scale"] in (None, 1.0) else f"{name} × {lora['scale']:g}"


def _figure(value: float | None) -> str | None:
    return None if value is None else f"{value:.3g}"
