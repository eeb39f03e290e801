"""A component's config.json into a frozen dataclass, every key checked before any weight is read."""

from __future__ import annotations

import dataclasses
import logging
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from vidgen_dist.errors import ConfigError

C = TypeVar("C")

logger = logging.getLogger(__name__)

_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    types.NoneType: "null",
}


def read_config(kind: type[C], config: Mapping[str, Any], model: str) -> C:
    """A `kind` (a dataclass of bool, int, float, str and None fields, and lists of them) from `config`.

    Keys that begin with an underscore are diffusers' own notes. A key that `kind` lacks is passed over, as
    diffusers does; a warning names it unless its value says "off" (null, false).

    Args:
        kind: Its fields are the allowed keys, its defaults stand for missing ones.
        config: config.json, parsed.
        model: Names the model in messages.

    Raises:
        ConfigError: Names the key, its value and what is allowed.
    """
    fields = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key, value in config.items():
        if key not in fields and not key.startswith("_") and value is not None and value is not False:
            logger.warning("config of %s: %s is not known and not used (its value is %r)", model, key, value)
    return select_config(kind, config, model)


def select_config(kind: type[C], config: Mapping[str, Any], model: str) -> C:
    """As `read_config`, passing over all keys that `kind` lacks: transformers' configs carry many for
    training and generation.

    Raises:
        ConfigError: A value of the wrong type; names the key, its value and what is allowed.
    """
    values = {}
    for name, hint in typing.get_type_hints(kind).items():
        if name in config:
            values[name] = _typed(config[name], hint, model, name)
    return kind(**values)


def select_sizes(kind: type[C], config: Mapping[str, Any], model: str) -> C:
    """As `select_config`, where all numbers must be 1 or more.

    Raises:
        ConfigError: A value of the wrong type, or a number below 1.
    """
    selected = select_config(kind, config, model)
    for key, value in vars(selected).items():
        if isinstance(value, int | float) and not isinstance(value, bool) and value < 1:
            raise bad_key(model, key, value, "a number from 1")
    return selected


def check_sizes(config: Any, model: str) -> None:
    """See that a config, a dataclass, has no whole number below 1 and no empty list.

    Raises:
        ConfigError: It has one.
    """
    for key, value in vars(config).items():
        if type(value) is int and value < 1:
            raise bad_key(model, key, value, "1 or more")
        if isinstance(value, list | tuple) and not value:
            raise bad_key(model, key, value, "a list that is not empty")


def bad_key(model: str, key: str, value: Any, allowed: str) -> ConfigError:
    """The error for a key whose value cannot be."""
    return ConfigError(f"config of {model}: {key} is {value!r}; allowed is {allowed}")


def _typed(value: Any, hint: Any, model: str, key: str) -> Any:
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if type(value) in kinds:
        return value
    if type(value) is int and float in kinds:
        return float(value)
    for kind in kinds:
        if _is_list(kind) and isinstance(value, list | tuple):
            (of_each,) = typing.get_args(kind)
            return tuple(_typed(item, of_each, model, key) for item in value)
    raise bad_key(model, key, value, " or ".join(_word(kind) for kind in kinds))


def _is_list(kind: Any) -> bool:
    return typing.get_origin(kind) is Sequence


def _word(kind: Any) -> str:
    if _is_list(kind):
        (of_each,) = typing.get_args(kind)
        return f"a list, of which each is {_word(of_each)}"
    return _WORDS[kind]
