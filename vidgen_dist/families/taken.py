"""What a checkpoint takes from a row: fields with defaults and what is allowed, for a person to read.

Which sizes and numbers of frames are allowed, its rules are asked, one value after another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vidgen_dist.families.common.tasks import Rules
from vidgen_dist.kinds import LoraPlaces, LoraScales

LONGEST_SIDE = 4096
"""Pixels up to which a height or width is tried."""

MOST_FRAMES = 257
"""Frames up to which `num_frames` is tried."""

_LONGEST_PERIOD = 64
_SHOWN = 8


@dataclass(frozen=True)
class Side:
    """The heights, or the widths, that a checkpoint takes with its default for the other one.

    Args:
        multiple: They are multiples of this.
        smallest: The smallest.
        largest: The largest; None if no limit was found up to `LONGEST_SIDE`.
    """

    multiple: int
    smallest: int
    largest: int | None

    def __str__(self) -> str:
        if self.largest == self.smallest:
            return f"only {self.smallest}"
        told = f"a multiple of {self.multiple}"
        if self.smallest > self.multiple:
            told += f" from {self.smallest}"
        return told if self.largest is None else f"{told} up to {self.largest}"


@dataclass(frozen=True)
class FrameCounts:
    """The numbers of frames that a checkpoint takes.

    Args:
        exact: Those that come out as asked, of those that were tried.
        largest: The largest that it takes; None if no limit was found up to `MOST_FRAMES`.
        rounds: Whether it also takes numbers of which it makes another number.
    """

    exact: tuple[int, ...]
    largest: int | None
    rounds: bool

    def __str__(self) -> str:
        told = self._pattern()
        if self.largest is not None:
            told += f" up to {self.largest}"
        return f"{told}; other numbers are changed to one of these" if self.rounds else told

    def _pattern(self) -> str:
        last = self.largest or MOST_FRAMES
        for period in range(1, _LONGEST_PERIOD):
            rests = sorted({number % period for number in self.exact})
            repeated = [n for n in range(self.exact[0], last + 1) if n % period in rests]
            if tuple(repeated) == self.exact and len(repeated) > 2 * len(rests):
                if len(rests) == period:
                    return "any number"
                return " or ".join(f"{period}k + {rest}" if rest else f"{period}k" for rest in rests)
        shown = ", ".join(map(str, self.exact[:_SHOWN]))
        return f"{shown}, …" if len(self.exact) > _SHOWN else shown


@dataclass(frozen=True)
class TakenSizes:
    """The sizes and numbers of frames that a checkpoint takes for a task, each with defaults for the others.

    Args:
        height, width: Pixels.
        num_frames: Frames; None for a model without the field, or if it takes none of those tried.
    """

    height: Side | None
    width: Side | None
    num_frames: FrameCounts | None

    def of(self, field: str) -> Side | FrameCounts | None:
        """What is known of a field; None if nothing is."""
        return {"height": self.height, "width": self.width, "num_frames": self.num_frames}.get(field)


@dataclass(frozen=True)
class TakenField:
    """A field that a checkpoint takes for a task.

    Args:
        name: The field.
        required: Whether every row needs a value.
        default: What a row without a value gets; None for none, or if it is required.
        takes: What is allowed, in words.
        about: What it is, in words.
    """

    name: str
    required: bool
    default: Any
    takes: str
    about: str


def taken_fields(rules: Rules[Any]) -> tuple[TakenField, ...]:
    """The fields that a checkpoint takes, by its rules for a task, those that it needs first.

    Left out are a row's identity and seed, and its LoRAs, which do not depend on the checkpoint.
    """
    sizes = taken_sizes(rules)
    found = []
    for name, field in rules.declared.items():
        required = name in rules.required
        if name not in rules.fields or isinstance(field.kind, LoraPlaces | LoraScales):
            continue
        if field.per_row and not required:
            continue
        default = None if required else rules.defaults.get(name)
        found.append(TakenField(name, required, default, str(sizes.of(name) or field.kind.name), field.about))
    return tuple(sorted(found, key=lambda taken: not taken.required))


def taken_sizes(rules: Rules[Any]) -> TakenSizes:
    """Find what a checkpoint takes, by its rules for a task."""
    return TakenSizes(_side(rules, "height"), _side(rules, "width"), _frame_counts(rules))


def _side(rules: Rules[Any], name: str) -> Side | None:
    multiple = rules.of_task.multiples.get(name, 1)
    tried = range(multiple, LONGEST_SIDE + 1, multiple)
    taken = [pixels for pixels in tried if rules.takes(**{name: pixels})]
    if not taken:
        return None
    return Side(multiple, taken[0], None if taken[-1] == tried[-1] else taken[-1])


def _frame_counts(rules: Rules[Any]) -> FrameCounts | None:
    if "num_frames" not in rules.fields:
        return None
    taken = [number for number in range(1, MOST_FRAMES + 1) if rules.takes(num_frames=number)]
    exact = tuple(number for number in taken if rules.of_task.made_frames(number) == number)
    if not exact:
        return None
    return FrameCounts(exact, None if taken[-1] == MOST_FRAMES else taken[-1], len(exact) < len(taken))
