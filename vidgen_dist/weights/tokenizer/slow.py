"""Tokenizers that do what transformers 4's Python classes do.

Tokens that a text may hold as they stand (special ones, for the most part) are looked for first; what lies
between them is split.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import AddedToken

from vidgen_dist.weights.tokenizer.settings import Settings, read_common


class SlowTokenizer(ABC):
    """A tokenizer of one text at a time.

    Args:
        values: Arguments of the class, its defaults filled in.
        added: Tokens that are looked for before a text is split, by id.

    Raises:
        ValueError: An argument that is not allowed.
    """

    def __init__(self, values: Mapping[str, Any], added: Mapping[int, AddedToken]) -> None:
        self.values = dict(values)
        self._common = read_common(values)
        self._added = dict(added)
        self._added_ids = {token.content: index for index, token in self._added.items()}
        self._add_special()
        self._special = frozenset(map(str, self._common.special.all()))
        # Where two tokens were given one id, the later one alone is looked for.
        found = {token.content for token in self._added.values() if token.content}
        longest_first = sorted(found, key=len, reverse=True)
        self._splitter = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")
        self.model_max_length = self._common.model_max_length
        self.padding_side = self._common.padding_side
        self.pad_id = self.special_id("pad_token")

    # What a class knows of its pieces.

    @abstractmethod
    def _vocabulary(self) -> dict[str, int]:
        """Ids of all pieces; added tokens may stand in their place."""

    @abstractmethod
    def _split(self, text: str) -> Sequence[str]:
        """Pieces of a text without added tokens."""

    @abstractmethod
    def _piece_id(self, piece: str) -> int:
        """The id of a piece; the unknown token's if it has none."""

    @abstractmethod
    def _piece(self, index: int) -> str:
        """The piece of an id."""

    @abstractmethod
    def _join(self, pieces: list[str]) -> str:
        """The text of pieces."""

    @abstractmethod
    def _around(self, ids: list[int]) -> list[int]:
        """Ids of a text with the tokens that stand before and after every text."""

    # What all have.

    def special_token(self, key: str) -> str | None:
        """A special token, by its key; None if there is none."""
        return self._common.special.get(key)

    def special_id(self, key: str) -> int | None:
        """The id of a special token, by its key; None if there is none."""
        token = self.special_token(key)
        return None if token is None else self.id_of(token)

    def id_of(self, piece: str) -> int:
        """The id of a piece or an added token; the unknown token's if it has none."""
        added = self._added_ids.get(piece)
        return self._piece_id(piece) if added is None else added

    def encode(self, text: str, max_length: int | None = None) -> list[int]:
        """Ids of a text, the tokens around it included.

        Args:
            text: The text.
            max_length: Ids of the result at most.
        """
        ids = [self.id_of(piece) for piece in self._pieces(text)]
        if max_length is not None:
            kept = max(max_length - len(self._around([])), 0)
            if len(ids) > kept:
                ids = ids[:kept] if self._common.truncation_side == "right" else ids[len(ids) - kept :]
        return self._around(ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens."""
        special = {self.id_of(token) for token in self._special}
        texts: list[str] = []
        pieces: list[str] = []
        for index in ids:
            if index in special:
                continue
            added = self._added.get(index)
            if added is None:
                pieces.append(self._piece(index))
            elif added.content not in self._special:
                before = self._join(pieces) if pieces else ""
                texts += [before, added.content] if before else [added.content]
                pieces = []
        texts += [self._join(pieces)] if pieces else []
        decoded = " ".join(texts)
        return tidied(decoded) if self._common.tidy else decoded

    def _add_special(self) -> None:
        """Give special tokens that are no pieces ids of their own, and look for all of them."""
        # Of two ids of one token, the higher counts.
        vocabulary = self._vocabulary() | {token.content: i for i, token in sorted(self._added.items())}
        for token in self._common.special.all():
            if isinstance(token, str):
                if token in self._added_ids:
                    continue
                token = AddedToken(token, rstrip=False, lstrip=False, normalized=False, special=True)
            index = vocabulary.setdefault(token.content, len(vocabulary))
            self._added[index] = token
            self._added_ids[token.content] = index

    def _pieces(self, text: str) -> list[str]:
        if self._common.split_special_tokens:
            return list(self._split(text)) if text else []
        found: list[str] = []
        for part in self._parts(text):
            if part in self._added_ids:
                found.append(part)
            elif part:
                found += self._split(part)
        return found

    def _parts(self, text: str) -> list[str]:
        """A text cut around added tokens, which may take the spaces beside them."""
        parts = [part for part in self._splitter.split(text) if part] if self._added else [text]
        for i, part in enumerate(parts):
            if part not in self._added_ids:
                continue
            token = self._added[self._added_ids[part]]
            before = parts[i - 1] if i > 0 else ""
            after = parts[i + 1] if i + 1 < len(parts) else ""
            if token.rstrip and after:
                parts[i + 1] = after.lstrip()
            if token.lstrip and before:
                parts[i - 1] = before.rstrip()
            # Inside a word, it is no token.
            if token.single_word and before and before[-1] != " ":
                parts[i - 1] += part
                parts[i] = ""
            elif token.single_word and after and after[0] != " ":
                parts[i + 1] = part + parts[i + 1]
                parts[i] = ""
        return parts


def required(settings: Mapping[str, Any], *keys: str) -> None:
    """See that a class has the special tokens without which it makes no ids.

    Raises:
        ValueError: One is left out.
    """
    for key in keys:
        if not settings.get(key):
            raise ValueError(f"{key} is {settings.get(key)!r}; allowed is a token")


def with_tokens(settings: Settings, defaults: Mapping[str, str], **flags: bool) -> dict[str, Any]:
    """Arguments with a class's default tokens; its tokens that are texts are made tokens with these flags."""
    values = {**defaults, **settings.values}
    for key in defaults:
        if isinstance(values[key], str):
            values[key] = AddedToken(values[key], **flags)
    return values


_TIDY = (
    *((f" {mark}", mark) for mark in ".?!,"),
    (" ' ", "'"),
    *((f" {end}", end) for end in ("n't", "'m", "'s", "'ve", "'re")),
)


def tidied(text: str) -> str:
    """A decoded text without the spaces before punctuation and contractions."""
    for found, kept in _TIDY:
        text = text.replace(found, kept)
    return text
