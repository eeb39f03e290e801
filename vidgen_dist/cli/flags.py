"""Flags of commands, from the options that the parts of a spec declare."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin

import typer

from vidgen_dist import spec
from vidgen_dist.errors import Refused, shortened
from vidgen_dist.spec import Command
from vidgen_dist.yaml_core import read_value

Flags: TypeAlias = Mapping[str, Any]
"""Dotted keys of a spec, `model.dtype`, with the values that the command line has for them."""

PARTS: Mapping[str, type[spec.Part]] = {"model": spec.ModelOptions, "topology": spec.TopologyOptions}
"""The parts of a spec that declare options, by key."""


@dataclass(frozen=True)
class _Flag:
    """One option of a part.

    Args:
        key: Dotted key of the spec.
        flag: Its name.
        help: What it is.
        kind: Type of what the command line gives.
        read: Makes the spec's value of it.
        metavar: What the help calls its value, where not by its type.
    """

    key: str
    flag: str
    help: str
    kind: type | types.GenericAlias
    read: Callable[[Any], Any]
    metavar: str | None = None

    def given(self, value: Any) -> Flags:
        """What the command line has for it: no key, one, or those of a mapping."""
        if self.metavar is not None:
            pairs = (read_pair(self.flag, text) for text in value or ())
            return {f"{self.key}.{name}": self.read(text) for name, text in pairs}
        read = self.read(value)
        return {} if read is None else {self.key: read}

    @property
    def name(self) -> str:
        """The name of the command's parameter."""
        return self.key.replace(".", "_")

    def parameter(self, help: str | None) -> inspect.Parameter:
        """The command's parameter, as typer reads it."""
        flag = self.flag
        if self.kind is bool:
            flag = f"{flag}/--no-{flag.removeprefix('--')}"
        default = typer.Option(None, flag, help=help or self.help, metavar=self.metavar)
        return inspect.Parameter(
            self.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=self.kind | None
        )


def with_flags(
    command: Command, *parts: str, help: Mapping[str, str] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the flags that parts of a spec declare for it.

    The decorated function has one keyword parameter for each part, of the part's name. It receives the
    part's `Flags`: those that the command line has.

    Args:
        command: Which of their options the command has.
        parts: Keys of `PARTS`.
        help: Dotted key -> help, where the command needs another one than the declaration's.
    """
    groups = {part: _flags(part, command) for part in parts}
    texts = help or {}

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        def expanded(parameter: inspect.Parameter) -> Iterable[inspect.Parameter]:
            flags = groups.get(parameter.name)
            return [parameter] if flags is None else [f.parameter(texts.get(f.key)) for f in flags]

        @functools.wraps(function)
        def run(**values: Any) -> None:
            for part, flags in groups.items():
                given = [flag.given(values.pop(flag.name)) for flag in flags]
                values[part] = {key: value for each in given for key, value in each.items()}
            function(**values)

        signature = inspect.signature(function, eval_str=True)
        parameters = [new for old in signature.parameters.values() for new in expanded(old)]
        vars(run)["__signature__"] = signature.replace(parameters=parameters)
        return run

    return decorate


def read_names(texts: list[str] | None) -> list[str] | None:
    """Names given by a flag that may be repeated and may hold commas."""
    if not texts:
        return None
    return [name.strip() for text in texts for name in text.split(",") if name.strip()]


def read_pair(flag: str, text: str, example: str | None = None) -> tuple[str, str]:
    """Name and value of a `KEY=VALUE`.

    Args:
        flag: The flag that has it.
        text: What follows it.
        example: One, for the message.

    Raises:
        Refused: It is none.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        such = f", such as {flag} {example}" if example else ""
        raise Refused(f"command line: {flag} {shortened(text, 100)}: is not KEY=VALUE{such}")
    return name.strip(), value


def _flags(part: str, command: Command) -> list[_Flag]:
    cls = PARTS[part]
    return [
        _Flag(f"{part}.{name}", option.flag, option.help, *_kind(cls.model_fields[name].annotation))
        for name, option in cls.options().items()
        if option.flag is not None and command in option.commands
    ]


def _kind(
    annotation: Any,
) -> tuple[type | types.GenericAlias, Callable[[Any], Any], str | None]:
    """Type of a flag for a field of that type, what makes the field's value of the flag's, and its metavar.

    Of a mapping's flag, which may be repeated, each `KEY=VALUE` has a value to be made.
    """
    plain = _plain_types(annotation) - {type(None)}
    if plain == {dict}:
        return list[str], read_value, "KEY=VALUE"
    if plain == {tuple}:
        return list[str], read_names, None
    if len(plain) == 1:
        return plain.pop(), lambda value: value, None
    return str, lambda text: None if text is None else read_value(text), None


def _plain_types(annotation: Any) -> set[type]:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _plain_types(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return set().union(*map(_plain_types, get_args(annotation)))
    if origin is Literal:
        return {type(value) for value in get_args(annotation)}
    return {origin or annotation}
