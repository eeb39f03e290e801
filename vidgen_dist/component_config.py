"""A component's config.json, or its equivalent, as a frozen dataclass.

A config class declares each key of the file that matters once: its type, its range and the reference's
default. Model, rules and costs read it from there. `check` holds conditions on several keys.

    @dataclass(frozen=True, config=STRICT)
    class TransformerConfig(Config):
        NAME: ClassVar = "MochiTransformer3DModel"
        num_layers: Positive = 48
        activation_fn: Annotated[str, OneOf(FEED_FORWARDS)] = "swiglu"
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import annotated_types as at
from pydantic import AfterValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from vidgen_dist.errors import ConfigError, shortened
from vidgen_dist.reference_keys import ReferenceKeys, reference_keys

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
"""How config classes are validated: no text for a number, no number for true, no NaN."""

Positive = Annotated[int, Field(ge=1)]
FromZero = Annotated[float, Field(ge=0)]
AboveZero = Annotated[float, Field(gt=0)]

T = typing.TypeVar("T")
# JSON has lists; a frozen value has tuples.
Items = Annotated[tuple[T, ...], Field(strict=False, min_length=1)]
"""A list that is not empty."""

_SHOWN = 80


@dataclass(frozen=True)
class Config:
    """The base of the config classes.

    A key of the reference's class that is neither a field nor in `HARMLESS` must have the reference's
    default.

    Class attributes:
        NAME: The class that the file configures, for messages.
        HARMLESS: Keys that do not affect pixels -> why not.
        ONLY: Keys that the reference reads but does not declare -> the only value that these models support.
    """

    NAME: ClassVar[str]
    HARMLESS: ClassVar[Mapping[str, str]] = {}
    ONLY: ClassVar[Mapping[str, Any]] = {}

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> Self:
        """The config in a parsed file.

        Keys that begin with an underscore are notes of the library that wrote it.

        Args:
            raw: The file's keys; missing ones have the reference's defaults.

        Raises:
            ConfigError: Values are not allowed; the message names each key, its value and what is allowed.
        """
        raw = cls.normalise_keys(raw)
        faults = [
            str(bad_key(cls.NAME, key, value, " or ".join(dict.fromkeys(map(_shown_value, allowed)))))
            for key, value in cls._unread(raw).items()
            if (allowed := cls._allowed(key)) and not any(_same(value, one) for one in allowed)
        ]
        names = {field.name for field in dataclasses.fields(cls)}
        try:
            read = cls(**{name: raw[name] for name in names if name in raw})
        except ValidationError as error:
            faults += _describe_faults(cls, raw, error)
        except ConfigError as error:
            faults += str(error).splitlines()
        if faults:
            raise ConfigError("\n".join(faults)) from None
        return read

    @classmethod
    def unknown(cls, raw: Mapping[str, Any]) -> dict[str, Any]:
        """The keys of a parsed file that neither these models nor the reference know, unless they are off.

        Args:
            raw: As for `read`.
        """
        unread = cls._unread(cls.normalise_keys(raw))
        return {key: value for key, value in unread.items() if value and not cls._allowed(key)}

    @classmethod
    def normalise_keys(cls, raw: Mapping[str, Any]) -> Mapping[str, Any]:
        """A file's keys in the fields' spelling, where releases of the reference differ.

        Raises:
            ConfigError: Two spellings of a key have different values.
        """
        reference = reference_keys(cls.NAME)
        raw = _part_for(reference, raw)
        for alias, key in reference.aliases.items():
            if alias in raw:
                if key in raw and raw[key] != raw[alias]:
                    raise bad_key(cls.NAME, alias, raw[alias], f"{raw[key]}, as {key} is; or leave it out")
                raw = {**raw, key: raw[alias]}
        return raw

    @classmethod
    def keys(cls) -> tuple[str, ...]:
        """The keys that the reference's class takes, sorted."""
        fields = {field.name for field in dataclasses.fields(cls)}
        return tuple(sorted({*fields, *cls.HARMLESS, *cls.ONLY, *reference_keys(cls.NAME).defaults}))

    @classmethod
    def _unread(cls, raw: Mapping[str, Any]) -> dict[str, Any]:
        """The keys that these models do not read, but others may."""
        reference = reference_keys(cls.NAME)
        read = {field.name for field in dataclasses.fields(cls)} | {*cls.HARMLESS, *reference.aliases}
        return {key: value for key, value in raw.items() if key not in read and not key.startswith("_")}

    @classmethod
    def _allowed(cls, key: str) -> tuple[Any, ...]:
        """The values at which an unread key has no effect; empty if the reference does not know the key."""
        own = (cls.ONLY[key],) if key in cls.ONLY else ()
        return (*own, *reference_keys(cls.NAME).defaults.get(key, ()))

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Check that the keys fit together.

        Raises:
            ConfigError: They do not.
        """

    def refuse(self, key: str, allowed: str) -> typing.NoReturn:
        """Refuse the value of a key."""
        raise bad_key(self.NAME, key, getattr(self, key), allowed)

    def check_lengths(self, lengths: Mapping[str, int], of: str) -> None:
        """Check that lists have at least as many entries as there are blocks.

        Args:
            lengths: Key -> the minimum number of entries.
            of: The key with the blocks.
        """
        for key, length in lengths.items():
            if len(getattr(self, key)) < length:
                self.refuse(key, f"{length} entries or more, for the blocks of {of}")


def bad_key(model: str, key: str, value: Any, allowed: str) -> ConfigError:
    """The error for a key whose value is not allowed."""
    shown = shortened(repr(value), _SHOWN)
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


def _part_for(reference: ReferenceKeys, raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part for one model in a config of several models, as transformers finds it."""
    part = raw.get(reference.part) if reference.part else None
    if isinstance(part, Mapping):
        return part
    if reference.model_type and raw.get("model_type", reference.model_type) != reference.model_type:
        for value in raw.values():
            if isinstance(value, Mapping) and value.get("model_type") == reference.model_type:
                return value
    return raw


def _same(value: Any, allowed: Any) -> bool:
    # All ways to write "off" are the same.
    return value == allowed or not (value or allowed)


def _shown_value(value: Any) -> str:
    return "null" if value is None else str(value)


def _describe_faults(cls: type[Config], raw: Mapping[str, Any], error: ValidationError) -> list[str]:
    """Everything that is wrong with a file's values: a line per key."""
    hints = typing.get_type_hints(cls, include_extras=True)
    faults: dict[str, set[str]] = {}
    for detail in error.errors():
        faults.setdefault(str(detail["loc"][0]), set()).add(detail["type"])
    lines = []
    for key, kinds in faults.items():
        allowed = describe(hints[key])
        if "finite_number" in kinds:
            # Infinity and NaN are numbers as well.
            allowed = allowed.replace(_WORDS[float], "a finite number")
        lines.append(str(bad_key(cls.NAME, key, raw[key], allowed)))
    return lines


def describe(hint: Any) -> str:
    """The values that an annotation allows, in words."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return " or ".join(describe(kind) for kind in typing.get_args(hint))
    if typing.get_origin(hint) is Annotated:
        kind, *notes = typing.get_args(hint)
        return _describe_kind(kind, list(_constraints(notes)))
    return _describe_kind(hint, [])


def _constraints(notes: typing.Iterable[Any]) -> typing.Iterator[Any]:
    for note in notes:
        if isinstance(note, FieldInfo):
            yield from note.metadata
        else:
            yield note


def _describe_kind(kind: Any, notes: list[Any]) -> str:
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
