"""How an option is declared: once, beside its field's type. Flags, help and documentation follow from it."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.fields import FieldInfo

Command = Literal["render", "plan", "manifest check", "encode"]

PLANNED: tuple[Command, ...] = ("render", "plan")
EVERYWHERE: tuple[Command, ...] = ("render", "plan", "manifest check")


@dataclass(frozen=True)
class Option:
    """Declares that a field of a part is an option that people choose.

    Args:
        help: One sentence that says what it is, for `--help` and the documentation.
        flag: Its own flag, such as `--dtype`. An option that is true or false also has `--no-FLAG`; one that
            is a mapping takes `KEY=VALUE` and may be repeated. An option without a flag is given by
            `--option KEY=VALUE`.
        argument: The command's argument that gives it, such as `OUTPUT`.
        metavar: What `--help` calls the flag's value, where its type does not say enough.
        values: Values that a shell offers, where the type does not list them.
        unset: What holds while the field is None or empty, such as `the model's`; by default `none`.
        details: Further sentences for the documentation.
        pixels: Whether fingerprints count the field where it is not left at its default. False also for what
            decides pixels and is counted as a part of something else: of the checkpoint's digest, the task
            or the dtype.
        whole_texts: For a list: whether each use of the flag gives one text, commas and all. Otherwise commas
            divide what it gives.
        usual: Whether many people change it: a brief run file shows it as well.
        commands: The commands that have the flag.
    """

    help: str
    flag: str | None = None
    argument: str | None = None
    metavar: str | None = None
    values: tuple[str, ...] = ()
    unset: str | None = None
    details: str | None = None
    pixels: bool = False
    whole_texts: bool = False
    usual: bool = False
    commands: tuple[Command, ...] = ("render",)


class Part(BaseModel):
    """One part of a run spec.

    Class attributes:
        GROUP: The heading of its options in `--help` and in the documentation.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    GROUP: ClassVar[str]

    @model_validator(mode="before")
    @classmethod
    def _leave_out_empty_parts(cls, data: Any) -> Any:
        """A part whose keys are all comments is null in YAML, and means its defaults."""
        if not isinstance(data, Mapping):
            return data
        empty = {name for name, value in data.items() if value is None and cls._is_part(name)}
        return {name: value for name, value in data.items() if name not in empty}

    @classmethod
    def _is_part(cls, name: Any) -> bool:
        """Whether a field is a part, or a mapping of names, that may be left out."""
        field = cls.model_fields.get(name)
        return field is not None and (field.default_factory is dict or isinstance(field.default, Part))

    @classmethod
    def options(cls) -> dict[str, Option]:
        """The fields that are options, with their declarations; without those of parts of this part."""
        return {name: option for name, field in cls.model_fields.items() if (option := _declared(field))}


@dataclass(frozen=True)
class DeclaredOption:
    """An option, and all that its field says about it.

    Args:
        key: Dotted key in a run spec, such as `topology.watchdog.denoise`.
        group: Its part's `GROUP`.
        option: The declaration.
        field: The field that has it.
    """

    key: str
    group: str
    option: Option
    field: FieldInfo

    @property
    def is_required(self) -> bool:
        """Whether a run spec must have it."""
        return self.field.is_required()

    @property
    def default(self) -> str | None:
        """What holds where it is left out, in words; None if it must be given."""
        if self.is_required:
            return None
        value = self.field.get_default(call_default_factory=True)
        if value is None or value in ((), {}):
            return self.option.unset or "none"
        if isinstance(value, bool):
            return "on" if value else "off"
        return str(value)

    @property
    def values(self) -> tuple[str, ...]:
        """The texts that it takes, or some of them, where there is a list."""
        return self.option.values or tuple(_listed_values(self.field.annotation))


def declared_options(part: type[Part], under: str = "") -> Iterator[DeclaredOption]:
    """The options of a part and of its parts, in their order.

    Args:
        part: Such as `RunSpec`.
        under: The part's dotted key, with a dot at its end.
    """
    for name, field in part.model_fields.items():
        option = _declared(field)
        if option is not None:
            yield DeclaredOption(under + name, part.GROUP, option, field)
        elif isinstance(field.annotation, type) and issubclass(field.annotation, Part):
            yield from declared_options(field.annotation, f"{under}{name}.")


def _declared(field: FieldInfo) -> Option | None:
    return next((declared for declared in field.metadata if isinstance(declared, Option)), None)


def _listed_values(annotation: Any) -> Iterator[str]:
    """The texts that an annotation lists."""
    if get_origin(annotation) is Literal:
        yield from (value for value in get_args(annotation) if isinstance(value, str))
        return
    for inner in get_args(annotation):
        yield from _listed_values(inner)


def plain_types(annotation: Any) -> set[type]:
    """The types that an annotation allows, without constraints: int and str for `int | Literal["auto"]`."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return plain_types(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return set().union(*map(plain_types, get_args(annotation)))
    if origin is Literal:
        return {type(value) for value in get_args(annotation)}
    return {origin or annotation}
