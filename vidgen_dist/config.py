"""A component's config.json, or what it has in its place, as a frozen dataclass.

A config class declares each key of the file that decides something, once: its type, its range and the
reference's default. Model, rules and costs read it from there. `check` says what depends on several keys.

    @dataclass(frozen=True, config=STRICT)
    class TransformerConfig(Config):
        NAME: ClassVar = "MochiTransformer3DModel"
        num_layers: Positive = 48
        activation_fn: Annotated[str, OneOf(FEED_FORWARDS)] = "swiglu"
"""

from __future__ import annotations

import dataclasses
import logging
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import annotated_types as at
from pydantic import AfterValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from vidgen_dist.errors import ConfigError

logger = logging.getLogger(__name__)

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
"""How config classes are checked: no text for a number, no number for true, no NaN."""

Positive = Annotated[int, Field(ge=1)]
FromZero = Annotated[float, Field(ge=0)]
AboveZero = Annotated[float, Field(gt=0)]

T = typing.TypeVar("T")
# JSON has lists, and a frozen value tuples.
Items = Annotated[tuple[T, ...], Field(strict=False, min_length=1)]
"""A list that is not empty."""

_SHOWN = 80


@dataclass(frozen=True)
class Config:
    """What the config classes have in common.

    Class attributes:
        NAME: The class that the file configures, for messages.
        HARMLESS: Keys that the reference class takes and does nothing with.
        ONLY: Key -> the one value at which the reference and these models agree.
        TELLS_UNKNOWN: Whether a key that is none of these is named in a warning. transformers writes many for
            training and generation.
    """

    NAME: ClassVar[str]
    HARMLESS: ClassVar[Collection[str]] = ()
    ONLY: ClassVar[Mapping[str, Any]] = {}
    TELLS_UNKNOWN: ClassVar[bool] = True

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> Self:
        """The config that a parsed file holds.

        Keys that begin with an underscore are notes of the library that wrote it.

        Args:
            raw: The file's keys; those that are missing have the reference's defaults.

        Raises:
            ConfigError: Names each key whose value cannot be, the value and what is allowed.
        """
        for key, only in {"quantization_config": None, **cls.ONLY}.items():
            value = raw.get(key, only)
            # Off is off, however it is written.
            if value != only and (value or only):
                raise bad_key(cls.NAME, key, value, _only(key, only))
        names = {field.name for field in dataclasses.fields(cls)}
        if cls.TELLS_UNKNOWN:
            _tell_unknown(cls.NAME, raw, cls.keys())
        try:
            return cls(**{name: raw[name] for name in names if name in raw})
        except ValidationError as error:
            raise _explained(cls, raw, error) from None

    @classmethod
    def keys(cls) -> tuple[str, ...]:
        """The keys that the reference class takes, sorted, as far as they are known here."""
        return tuple(sorted({field.name for field in dataclasses.fields(cls)} | {*cls.HARMLESS, *cls.ONLY}))

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """See that the keys fit each other.

        Raises:
            ConfigError: They do not.
        """

    def refuse(self, key: str, allowed: str) -> typing.NoReturn:
        """Refuse the value of a key."""
        raise bad_key(self.NAME, key, getattr(self, key), allowed)

    def check_lengths(self, lengths: Mapping[str, int], of: str) -> None:
        """See that lists have as many entries as there are blocks, or more.

        Args:
            lengths: Key -> the least number of entries.
            of: The key whose blocks they are for.
        """
        for key, length in lengths.items():
            if len(getattr(self, key)) < length:
                self.refuse(key, f"{length} entries or more, for the blocks of {of}")


def bad_key(model: str, key: str, value: Any, allowed: str) -> ConfigError:
    """The error for a key whose value cannot be."""
    shown = repr(value)
    shown = shown if len(shown) <= _SHOWN else shown[: _SHOWN - 3] + "..."
    return ConfigError(f"config of {model}: {key} is {shown}; allowed is {allowed}")


@dataclass(frozen=True, eq=False)
class OneOf:
    """One of some texts.

    Args:
        names: The texts.
        any_case: Whether capitals make no difference.
    """

    names: Collection[str]
    any_case: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return AfterValidator(self._checked).__get_pydantic_core_schema__(source, handler)

    def _checked(self, value: str) -> str:
        if (value.lower() if self.any_case else value) not in self.names:
            raise PydanticCustomError("one_of", "not one of these")
        return value

    @property
    def allowed(self) -> str:
        return f"one of {', '.join(self.names)}"


def _only(key: str, only: Any) -> str:
    if key == "quantization_config":
        return "none: weights are read as they are"
    return "null" if only is None else str(only)


def _tell_unknown(model: str, raw: Mapping[str, Any], known: Collection[str]) -> None:
    for key, value in raw.items():
        if key not in known and not key.startswith("_") and value is not None and value is not False:
            logger.warning("config of %s: %s is not known and not used (its value is %r)", model, key, value)


def _explained(cls: type[Config], raw: Mapping[str, Any], error: ValidationError) -> ConfigError:
    """All that is wrong with a file's values: a line for each key."""
    hints = typing.get_type_hints(cls, include_extras=True)
    faults: dict[str, set[str]] = {}
    for detail in error.errors():
        faults.setdefault(str(detail["loc"][0]), set()).add(detail["type"])
    told = []
    for key, kinds in faults.items():
        allowed = describe(hints[key])
        if "finite_number" in kinds:
            # Infinity and NaN are numbers, too.
            allowed = allowed.replace(_WORDS[float], "a finite number")
        told.append(str(bad_key(cls.NAME, key, raw[key], allowed)))
    return ConfigError("\n".join(told))


def describe(hint: Any) -> str:
    """What values an annotation allows, in words."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return " or ".join(describe(kind) for kind in typing.get_args(hint))
    if typing.get_origin(hint) is Annotated:
        kind, *notes = typing.get_args(hint)
        return _described(kind, list(_constraints(notes)))
    return _described(hint, [])


def _constraints(notes: typing.Iterable[Any]) -> typing.Iterator[Any]:
    for note in notes:
        if isinstance(note, FieldInfo):
            yield from note.metadata
        else:
            yield note


def _described(kind: Any, notes: list[Any]) -> str:
    one_of = next((note for note in notes if isinstance(note, OneOf)), None)
    if one_of is not None:
        return one_of.allowed
    if typing.get_origin(kind) is Literal:
        choices = [str(choice) for choice in typing.get_args(kind)]
        return choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"
    if typing.get_origin(kind) is dict:
        return "an object"
    if typing.get_origin(kind) is tuple:
        of_each, *more = typing.get_args(kind)
        length = "" if more == [Ellipsis] else f" of {len(more) + 1}"
        some = " (one or more)" if any(isinstance(note, at.MinLen) for note in notes) else ""
        return f"a list{length}, each {describe(of_each)}{some}"
    words = _WORDS[kind]
    for note in notes:
        for bound, text in _BOUNDS.items():
            if isinstance(note, bound):
                words += text.format(getattr(note, dataclasses.fields(bound)[0].name))
    return words


_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    types.NoneType: "null",
}
_BOUNDS: Mapping[type, str] = {
    at.Ge: " from {}",
    at.Gt: " above {}",
    at.Le: " up to {}",
    at.Lt: " below {}",
    at.MultipleOf: ", a multiple of {}",
}
