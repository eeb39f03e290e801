"""The documentation's table of run options, from their declarations."""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from vidgen_dist.component_config import describe
from vidgen_dist.spec.option import Command, declared_options
from vidgen_dist.spec.run import RunSpec
from vidgen_dist.spec.values import Named


@dataclass(frozen=True)
class OptionRow:
    """What the documentation says about an option; markdown where it says so.

    Args:
        group: Heading, such as `Topology`.
        key: Dotted key in run.yaml, such as `topology.watchdog.denoise`.
        flag: Its flag, or the argument that gives it, such as `OUTPUT`; None: `--option KEY=VALUE` gives it.
        type: What it takes, in words.
        default: What holds where it is left out, in words; None if it must be given.
        help: What it is, in sentences of markdown.
        commands: The commands that have the flag.
        pixels: Whether fingerprints count it by its name.
    """

    group: str
    key: str
    flag: str | None
    type: str
    default: str | None
    help: str
    commands: tuple[Command, ...]
    pixels: bool


def option_rows() -> Iterator[OptionRow]:
    """The rows of the table: every run option, in the order of run.yaml's keys."""
    for declared in declared_options(RunSpec):
        option = declared.option
        yield OptionRow(
            group=declared.group,
            key=declared.key,
            flag=option.flag or option.argument,
            type=_in_words(declared.field.annotation, declared.field.metadata),
            default=declared.default,
            help=" ".join(text for text in (option.help, option.details) if text),
            commands=option.commands,
            pixels=option.pixels,
        )


def _in_words(annotation: Any, notes: Iterable[Any] = ()) -> str:
    """What values a field's annotation allows; that it may be left out, its default says."""
    if get_origin(annotation) is Annotated:
        annotation, *more = get_args(annotation)
        return _in_words(annotation, (*more, *notes))
    named = next((note.name for note in notes if isinstance(note, Named)), None)
    if named is not None:
        return named
    if get_origin(annotation) in (types.UnionType, Union):
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        return " or ".join(_in_words(kind) for kind in kinds)
    return describe(Annotated[annotation, *notes]) if notes else describe(annotation)
