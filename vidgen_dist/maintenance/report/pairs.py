"""What two outputs have of a row: a card of each, how far they are apart, and which settings differ."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vidgen_dist.maintenance.comparison import COMPARED, ONLY_A, ONLY_B, OUTCOMES
from vidgen_dist.maintenance.report.cards import Card

DIFFERS, NOT_COMPARABLE, ONLY_IN_ONE, IDENTICAL = "differs", "not comparable", "only in one", "identical"
KINDS = (DIFFERS, NOT_COMPARABLE, ONLY_IN_ONE, IDENTICAL)
"""What rows of two outputs may be, in the order of the pages. The script goes by their first letters."""

_TONES = {DIFFERS: "flag", NOT_COMPARABLE: "failed", ONLY_IN_ONE: "failed", IDENTICAL: "good"}

_SETTINGS = ("seed", "LoRA", "model", "size", "length")
"""What cards say of a row that may differ between the outputs; how long it took is not a setting."""


@dataclass(frozen=True)
class Difference:
    """Something that differs.

    Args:
        name: What it is.
        a, b: What it is in A and in B; a dash where there is none.
    """

    name: str
    a: str
    b: str


@dataclass(frozen=True)
class DifferencePoster:
    """A picture of the difference of two frames.

    Args:
        poster: Its path in the report.
        size: Width and height of a frame, in pixels.
        title: What it shows.
        alt: The same for those who do not see it.
    """

    poster: str
    size: tuple[int, int]
    title: str
    alt: str


@dataclass(frozen=True)
class Pair:
    """A row of two outputs.

    Args:
        number: Its place in the report, from 0.
        id: The row's id.
        kind: One of `KINDS`.
        outcome: What the comparison says of it, in a few words.
        reason: Why it has no figures; empty if it has.
        prompt: A's prompt, or B's; None if neither is known.
        a, b: Its cards; None where the ledger does not have the row.
        figures: Name and value of the figures.
        differences: What differs beside the frames.
        difference: The worst frame's difference; None without one.
        psnr: dB; None without one.
        ssim: -1 to 1; None without one.
        motion: How far the motion differs, 0 to 2; None if it is not known.
        first: Index of the first frame that differs; None if none does.
    """

    number: int
    id: str
    kind: str
    outcome: str
    reason: str
    prompt: str | None
    a: Card | None
    b: Card | None
    figures: Sequence[tuple[str, str]]
    differences: Sequence[Difference]
    difference: DifferencePoster | None
    psnr: float | None
    ssim: float | None
    motion: float | None
    first: int | None

    @property
    def tone(self) -> str:
        """The colour of its badge."""
        return _TONES[self.kind]

    @property
    def cards(self) -> list[Card]:
        """Those that are there."""
        return [card for card in (self.a, self.b) if card is not None]

    @property
    def plays(self) -> bool:
        """Whether it has two videos that play."""
        return sum(card.preview.video is not None for card in self.cards) == 2


def kind_of(row: Mapping[str, Any]) -> str:
    """The kind of a row of a comparison."""
    if row["outcome"] in (ONLY_A, ONLY_B):
        return ONLY_IN_ONE
    if row["outcome"] != COMPARED:
        return NOT_COMPARABLE
    return IDENTICAL if row["same_frames"] else DIFFERS


def make_pair(
    number: int,
    row: Mapping[str, Any],
    cards: tuple[Card | None, Card | None],
    difference: DifferencePoster | None = None,
) -> Pair:
    """What is shown of a row.

    Args:
        number: Its place in the report, from 0.
        row: A row of a comparison.
        cards: A's and B's.
        difference: A picture of the worst frame's difference.
    """
    kind = kind_of(row)
    same = "same bytes" if row["same_bytes"] else "same frames"
    prompts = [card.prompt for card in cards if card is not None and card.prompt is not None]
    return Pair(
        number=number,
        id=row["id"],
        kind=kind,
        outcome={DIFFERS: "differs", IDENTICAL: f"identical: {same}"}.get(kind, row["outcome"]),
        reason=row["reason"] or ("" if row["outcome"] == COMPARED else OUTCOMES[row["outcome"]]),
        prompt=prompts[0] if prompts else None,
        a=cards[0],
        b=cards[1],
        figures=list(_figures(row)) if kind == DIFFERS else [],
        differences=list(_differences(*cards)),
        difference=difference,
        psnr=row["psnr"],
        ssim=row["ssim"],
        motion=row["motion_difference"],
        first=row["first_different_frame"],
    )


def shown_psnr(value: float | None) -> str:
    """A PSNR in dB for people."""
    if value is None:
        return "none"
    return "infinite" if math.isinf(value) else f"{value:.2f} dB"


def shown_ssim(value: float | None) -> str:
    """An SSIM for people."""
    return "none" if value is None else f"{value:.4f}"


def _figures(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "PSNR", shown_psnr(row["psnr"])
    yield "SSIM", shown_ssim(row["ssim"])
    yield "mean difference", f"{row['mean_difference']:.4f}"
    if row["motion_difference"] is not None:
        yield "motion difference", f"{row['motion_difference']:.4f}"
    yield "first frame that differs", f"{row['first_different_frame']} of 0 to {row['frames'] - 1}"
    yield "worst frame", f"{row['worst_frame']}"


def _differences(a: Card | None, b: Card | None) -> Iterator[Difference]:
    if a is None or b is None:
        return
    one, other = ({"prompt": card.prompt, **dict(card.facts), **dict(card.details)} for card in (a, b))
    for name in ("prompt", *_SETTINGS):
        values = one.get(name), other.get(name)
        # What is not known does not differ; but a LoRA is there or not.
        if values[0] != values[1] and (name == "LoRA" or None not in values):
            yield Difference(name, *(value or "–" for value in values))
