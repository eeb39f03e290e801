"""What the files of a tokenizer's folder say beside its vocabulary, read as transformers 4 reads them.

tokenizer_config.json      arguments of the class; `added_tokens_decoder` if release 4.34 or later wrote it
special_tokens_map.json    special tokens; counts where there is no `added_tokens_decoder`
added_tokens.json          further tokens and their ids; counts where there is no `added_tokens_decoder`
tokenizer.json             lists added tokens too; they count where there is no `added_tokens_decoder`
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from tokenizers import AddedToken

from vidgen_dist.weights.checkpoint_files import is_there, read_json

WHOLE = "tokenizer.json"
"""Vocabulary, normalisation and all else in one file."""

CONFIG = "tokenizer_config.json"

_DECODER = "added_tokens_decoder"
_ADDITIONAL = "additional_special_tokens"
_FURTHER = "extra_special_tokens"

SPECIAL = (
    *("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"),
    _ADDITIONAL,
)
"""Keys of special tokens, in the order in which those without an id get one."""

_NOT_ARGUMENTS = ("tokenizer_class", "tokenizer_file", "vocab_file", "merges_file", "init_inputs", "backend")

Special: TypeAlias = str | AddedToken


@dataclass(frozen=True)
class Settings:
    """Arguments of a tokenizer's class.

    Args:
        values: Arguments by name.
        added: Tokens that are looked for before a text is split, by id.
    """

    values: dict[str, Any] = field(default_factory=dict)
    added: dict[int, AddedToken] = field(default_factory=dict)


def read_config(folder: Path) -> Mapping[str, Any]:
    """`tokenizer_config.json` as it is; empty where there is none."""
    path = folder / CONFIG
    return read_json(path) if is_there(path) else {}


def read_settings(folder: Path) -> Settings:
    """Settings of the tokenizer in a folder."""
    values = {key: value for key, value in read_config(folder).items() if key not in _NOT_ARGUMENTS}
    further = further_tokens(values)
    values |= further
    listed = values.pop(_DECODER, None)
    if listed is not None:
        added = {int(index): added_token(token) for index, token in listed.items()}
    else:
        told = _special_tokens(folder, values)
        values |= {key: value for key, value in told.items() if not further.get(key)}
        added = _added_tokens(folder, values)
    values = {key: _tokens_within(value) for key, value in values.items()}
    by_content = {token.content: token for token in added.values()}
    for key in SPECIAL:
        if key != _ADDITIONAL and values.get(key) is not None:
            values[key] = by_content.get(str(values[key]), values[key])
    return Settings(values, added)


def further_tokens(values: Mapping[str, Any]) -> dict[str, Any]:
    """The list of tokens that transformers 5 writes, as transformers 4 has it."""
    listed = values.get(_FURTHER)
    if not isinstance(listed, list):
        return {}
    known = values.get(_ADDITIONAL) or []
    tokens = [special_token(value) for value in (*known, *(value for value in listed if value not in known))]
    return {_FURTHER: {}, _ADDITIONAL: tokens}


def special_token(value: Any) -> Any:
    """A special token as a config has it: a text, or an object."""
    return added_token(value) if isinstance(value, Mapping) else value


def added_token(value: Mapping[str, Any]) -> AddedToken:
    """A token from an object that holds its content and how it is looked for."""
    return AddedToken(**{key: of for key, of in value.items() if not key.startswith("_")})


def _special_tokens(folder: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    path = folder / "special_tokens_map.json"
    if not is_there(path):
        return {}
    found: dict[str, Any] = {}
    for key, value in read_json(path).items():
        if isinstance(value, Mapping):
            found[key] = _special(value)
        elif key == _ADDITIONAL and isinstance(value, list):
            found[key] = list(values.get(_ADDITIONAL) or [])
            found[key] += [token for token in dict.fromkeys(map(_special, value)) if token not in found[key]]
        else:
            found[key] = value
    return found


def _special(value: Any) -> Special:
    return added_token({**value, "special": True}) if isinstance(value, Mapping) else value


def _added_tokens(folder: Path, values: Mapping[str, Any]) -> dict[int, AddedToken]:
    added: dict[int, AddedToken] = {}
    path = folder / "added_tokens.json"
    if is_there(path):
        special = set(_contents(values))
        for content, index in read_json(path).items():
            flags = {"normalized": content not in special, "special": content in special}
            added[index] = AddedToken(content, rstrip=False, lstrip=False, **flags)
    path = folder / WHOLE
    if is_there(path):
        for token in read_json(path)["added_tokens"]:
            added[token["id"]] = added_token({key: of for key, of in token.items() if key != "id"})
    return added


def _contents(values: Mapping[str, Any]) -> Iterable[str]:
    for key in SPECIAL:
        value = values.get(key)
        if value is not None:
            yield from map(str, value) if key == _ADDITIONAL else (str(value),)


def _tokens_within(value: Any) -> Any:
    """A value of a config, with objects that say they are tokens made tokens."""
    if isinstance(value, Mapping):
        if value.get("__type") == "AddedToken":
            return added_token(value)
        return {key: _tokens_within(of) for key, of in value.items()}
    return [_tokens_within(of) for of in value] if isinstance(value, list) else value


class SpecialTokens:
    """Special tokens of a tokenizer, by key.

    Args:
        values: Arguments of the tokenizer's class.

    Raises:
        ValueError: A special token that is neither a text nor a token.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._by_key: dict[str, Any] = dict.fromkeys(SPECIAL)
        named = values.get(_FURTHER) or {}
        for key, value in [*((key, values.get(key)) for key in SPECIAL), *named.items()]:
            tokens = value if key == _ADDITIONAL else [value]
            if value is None:
                continue
            if not isinstance(tokens, list) or not all(
                isinstance(token, (str, AddedToken)) for token in tokens
            ):
                raise ValueError(f"{key} is {value!r}; allowed is {self._allowed(key)}")
            self._by_key[key] = value

    @staticmethod
    def _allowed(key: str) -> str:
        return "a list of tokens" if key == _ADDITIONAL else "a token"

    def get(self, key: str) -> str | None:
        """The token of a key; None if there is none."""
        token = self._by_key.get(key)
        return None if token is None else str(token)

    def all(self) -> list[Special]:
        """All of them, those once that several keys have."""
        found: list[Special] = []
        for value in filter(None, self._by_key.values()):
            names = set(map(str, found))
            found += [of for of in (value if isinstance(value, list) else [value]) if str(of) not in names]
        return found


@dataclass(frozen=True)
class Common:
    """Settings that all classes have.

    Args:
        special: Special tokens.
        model_max_length: Tokens that the model takes; very many if the config does not say.
        padding_side: Where padding goes.
        truncation_side: Where a longer text is cut.
        split_special_tokens: Whether special tokens in a text are split as any other text.
        tidy: Whether decoded text loses the spaces before punctuation.
    """

    special: SpecialTokens
    model_max_length: int
    padding_side: str
    truncation_side: str
    split_special_tokens: bool
    tidy: bool


_VERY_LONG = int(1e30)


def read_common(values: Mapping[str, Any], padding_side: str = "right") -> Common:
    """Settings that all classes have.

    Args:
        values: Arguments of the tokenizer's class.
        padding_side: That of the class.

    Raises:
        ValueError: A side that is neither left nor right; a special token that is none.
    """
    sides = {"padding_side": padding_side, "truncation_side": "right"}
    sides = {key: values.get(key, usual) for key, usual in sides.items()}
    for key, side in sides.items():
        if side not in ("left", "right"):
            raise ValueError(f"{key} is {side!r}; allowed: left, right")
    length = values.get("model_max_length", values.get("max_len"))
    return Common(
        special=SpecialTokens(values),
        model_max_length=_VERY_LONG if length is None else length,
        padding_side=sides["padding_side"],
        truncation_side=sides["truncation_side"],
        split_special_tokens=bool(values.get("split_special_tokens", False)),
        tidy=bool(values.get("clean_up_tokenization_spaces", False)),
    )
