"""The flags of commands, from the options that the run spec declares."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import typer

from vidgen_dist.cli.assignments import KEY_VALUE, SAMPLING, read_mapping, read_options
from vidgen_dist.cli.completion import Completion, offer, offer_fields, offer_retries
from vidgen_dist.errors import Refused
from vidgen_dist.spec import COMMAND_LINE, Command, RunSpec
from vidgen_dist.spec.option import DeclaredOption, declared_options, plain_types
from vidgen_dist.yaml_core import read_value

Flags: TypeAlias = Mapping[str, Any]
"""Dotted keys of a spec, `model.dtype`, with the values that the command line has for them."""


_LONGEST_LIST = 24
"""Characters of a list of values that help shows in place of a name."""


@dataclass(frozen=True)
class _Flag:
    """The flag of an option.

    Args:
        name: Such as `--dtype`.
        declared: The option.
        kinds: The types of its values.
    """

    name: str
    declared: DeclaredOption
    kinds: frozenset[type]

    @property
    def parameter_name(self) -> str:
        """The name of the command's parameter."""
        return self.declared.key.replace(".", "_")

    def parameter(self) -> inspect.Parameter:
        """The command's parameter, as typer reads it."""
        option = self.declared.option
        default = typer.Option(
            None,
            f"{self.name}/--no-{self.name.removeprefix('--')}" if self.kinds == {bool} else self.name,
            help=option.help,
            metavar=self._metavar,
            autocompletion=self._completion,
            rich_help_panel=self.declared.group,
            show_default=self.declared.default or False,
        )
        return inspect.Parameter(
            self.parameter_name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=self._type | None,
        )

    @property
    def _metavar(self) -> str | None:
        """What help calls its value."""
        listed = "|".join(self.declared.values)
        if self.declared.option.metavar is not None or self.kinds == {bool}:
            return self.declared.option.metavar
        if self.kinds == {dict}:
            return KEY_VALUE
        if int in self.kinds or float in self.kinds:
            return f"N|{listed}" if listed else "N"
        return listed if 0 < len(listed) <= _LONGEST_LIST else "TEXT"

    @property
    def _completion(self) -> Completion | None:
        """What a shell offers for its value."""
        if self.declared.key == SAMPLING:
            return offer_fields
        if self.declared.key == "manifest.retry":
            return offer_retries
        values = self.declared.values
        return offer(values, several=self.kinds == {tuple}) if values else None

    @property
    def _type(self) -> type | types.GenericAlias:
        """The type of what the command line gives."""
        if self.kinds in ({dict}, {tuple}):
            return list[str]
        return next(iter(self.kinds)) if len(self.kinds) == 1 else str

    def read(self, value: Any) -> Flags:
        """The keys and values for what the command line gives: none, one, or those of a mapping."""
        key = self.declared.key
        if self.kinds == {dict}:
            return read_mapping(key, value or (), self.name)
        if self.kinds == {tuple}:
            value = (value or None) if self.declared.option.whole_texts else _read_names(value)
        elif len(self.kinds) > 1 and value is not None:
            value = read_value(value)
        return {} if value is None else {key: value}


def with_flags(
    command: Command, *, without: Collection[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the flags that the run spec declares for it, and `--option` for all other keys.

    The decorated function has a keyword parameter `options`, which receives the `Flags` that the command
    line has.

    Args:
        command: Its name, or another command's that has the same flags.
        without: Dotted keys whose flags it does not have, because an argument of its own gives them.
    """
    flags = [flag for flag in _flags(command) if flag.declared.key not in without]
    added = [*(flag.parameter() for flag in flags), _ANY_OPTION]

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def run(**values: Any) -> None:
            given = {flag.name: flag.read(values.pop(flag.parameter_name)) for flag in flags}
            others = read_options(values.pop(_ANY_OPTION.name) or ())
            function(**values, options=_merged(given, others))

        signature = inspect.signature(function, eval_str=True)
        own = [parameter for parameter in signature.parameters.values() if parameter.name != "options"]
        vars(run)["__signature__"] = signature.replace(parameters=[*own, *added])
        return run

    return decorate


_ANY_OPTION = inspect.Parameter(
    "option",
    inspect.Parameter.KEYWORD_ONLY,
    default=typer.Option(
        None,
        "--option",
        metavar=KEY_VALUE,
        autocompletion=offer([f"{known.key}=" for known in declared_options(RunSpec)]),
        help="Any option by its dotted key in a run.yaml, such as topology.watchdog.denoise=30.",
        rich_help_panel="Any option",
    ),
    annotation=list[str] | None,
)


def with_argument(options: Flags, key: str, argument: str, value: str) -> Flags:
    """The flags and what an argument gives.

    Args:
        options: The flags.
        key: The argument's key in a spec.
        argument: What messages call it.
        value: What it gives.

    Raises:
        Refused: `--option` gives the key, too.
    """
    if key in options:
        raise Refused(f"{COMMAND_LINE}: {key} is given by {argument} and by --option; leave one of them out")
    return {**options, key: value}


def help_of(key: str) -> str:
    """The help of the option with that dotted key, for an argument that gives it."""
    return next(known.option.help for known in declared_options(RunSpec) if known.key == key)


def _merged(given: Mapping[str, Flags], others: Flags) -> Flags:
    """The keys of flags and of `--option` together.

    Raises:
        Refused: A key is given by both.
    """
    for flag, keys in given.items():
        for key in keys:
            for other in others:
                if f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}."):
                    raise Refused(
                        f"{COMMAND_LINE}: {key} is given by {flag} and by --option {other}; "
                        "leave one of them out"
                    )
    return {key: value for keys in (*given.values(), others) for key, value in keys.items()}


def _read_names(texts: Iterable[str] | None) -> list[str] | None:
    """Names given by a flag that may be repeated and may hold commas."""
    if not texts:
        return None
    return [name.strip() for text in texts for name in text.split(",") if name.strip()]


def _flags(command: Command) -> list[_Flag]:
    return [
        _Flag(option.flag, declared, frozenset(plain_types(declared.field.annotation) - {type(None)}))
        for declared in declared_options(RunSpec)
        if (option := declared.option).flag is not None and command in option.commands
    ]
