"""CLIP's tokenizer of vocab.json and merges.txt, as transformers 4's `CLIPTokenizer`.

transformers has ftfy clean the text where that package is installed; here it never does.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from tokenizers import models

from vidgen_dist.weights.checkpoint_files import read_json
from vidgen_dist.weights.tokenizer.settings import Settings
from vidgen_dist.weights.tokenizer.slow import SlowTokenizer, required, with_tokens

CLIP_TOKENS = {
    "unk_token": "<|endoftext|>",
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}
END_OF_WORD = "</w>"

_MOST_MERGES = 49152 - 256 - 2
"""The published vocabulary's; what a file has beyond them is not read."""

_WRITTEN = ("<|startoftext|>", "<|endoftext|>")
"""Tokens that are whole even if a text writes them in other letters, say in capitals."""

_WORDS = re.compile(
    "|".join(
        [
            *map(re.escape, _WRITTEN),
            "'s|'t|'re|'ve|'m|'ll|'d",
            r"(?P<alnum>[^\W_]+)",
            # The one mark whose capital is a letter, U+0345, is lost: it is neither to the package `regex`,
            # by which transformers reads `\p{L}`.
            r"(?:[^\w\s\u0345]|_)+",
        ]
    ),
    re.IGNORECASE,
)


class ClipTokenizer(SlowTokenizer):
    """CLIP's tokenizer: text in small letters, words of bytes, a token before and one after.

    Args:
        vocabulary: `vocab.json`.
        merges: `merges.txt`.
        settings: Settings of the folder.

    Raises:
        ValueError: A setting that is not allowed.
    """

    def __init__(self, vocabulary: Path, merges: Path, settings: Settings) -> None:
        values = with_tokens(
            settings,
            {key: token for key, token in CLIP_TOKENS.items() if key != "pad_token"},
            # As they are found in a fast tokenizer: in whatever letters a text has them.
            normalized=True,
        )
        values = {**CLIP_TOKENS, **values}
        required(values, "bos_token", "eos_token", "unk_token")
        self.ids: dict[str, int] = read_json(vocabulary)
        self.merges = read_merges(merges)
        self._by_id = {index: piece for piece, index in self.ids.items()}
        self._unknown = self.ids.get(str(values["unk_token"]))
        self._model = models.BPE(
            vocab=self.ids,
            merges=self.merges,
            end_of_word_suffix=END_OF_WORD,
            unk_token=str(values["unk_token"]),
        )
        super().__init__(values, settings.added)

    def _vocabulary(self) -> dict[str, int]:
        return dict(self.ids)

    def _split(self, text: str) -> Sequence[str]:
        return [piece for word in _words(_cleaned(text)) for piece in self._pieces_of(word)]

    def _pieces_of(self, word: str) -> Sequence[str]:
        written = "".join(_LETTERS[byte] for byte in word.encode())
        return [written] if written in _WRITTEN else [token.value for token in self._model.tokenize(written)]

    def _piece_id(self, piece: str) -> int:
        index = self.ids.get(piece, self._unknown)
        if index is None:
            raise ValueError(f"the unknown token of {piece!r} is not in the vocabulary")
        return index

    def _piece(self, index: int) -> str:
        return self._by_id[index]

    def _join(self, pieces: list[str]) -> str:
        text = bytes(_BYTES[letter] for letter in "".join(pieces)).decode(errors="replace")
        return text.replace(END_OF_WORD, " ").strip()

    def _around(self, ids: list[int]) -> list[int]:
        return [self.special_id("bos_token"), *ids, self.special_id("eos_token")]  # type: ignore[list-item]


def read_merges(path: Path) -> list[tuple[str, str]]:
    """Pairs that are merged, those first that are merged first."""
    # The first line is the version.
    lines = path.read_text(encoding="utf-8").strip().split("\n")[1 : _MOST_MERGES + 1]
    ranks = {tuple(line.split()): rank for rank, line in enumerate(lines)}
    return [(pair[0], pair[1]) for pair in sorted(ranks, key=ranks.__getitem__) if len(pair) == 2]


def _letters() -> dict[int, str]:
    """A visible letter for each byte: its own where it has one."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {byte: chr(byte) for byte in shown} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}


_LETTERS = _letters()
_BYTES = {letter: byte for byte, letter in _LETTERS.items()}


def _words(text: str) -> Iterator[str]:
    for found in _WORDS.finditer(text):
        if found["alnum"] is None:
            yield found[0]
        else:
            yield from _letters_and_digits(found[0])


def _letters_and_digits(text: str) -> Iterator[str]:
    """Runs of letters, and each number by itself."""
    start = 0
    for i, char in enumerate(text):
        if not char.isalpha():
            if start < i:
                yield text[start:i]
            yield char
            start = i + 1
    if start < len(text):
        yield text[start:]


def _cleaned(text: str) -> str:
    """A text without control characters, in composed and small letters, ideographs apart."""
    kept = "".join(map(_shown, text))
    words = unicodedata.normalize("NFC", kept).split()
    return " ".join(word.lower() for word in words)


def _shown(char: str) -> str:
    if char in "\t\n\r ":
        return " "
    category = unicodedata.category(char)
    if category.startswith("C") or char == "\ufffd":
        return ""
    if category == "Zs":
        return " "
    return f" {char} " if _is_ideograph(ord(char)) else char


_IDEOGRAPHS = (
    *((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F)),
    *((0x2B740, 0x2B81F), (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F)),
)


def _is_ideograph(code: int) -> bool:
    return code >= 0x3400 and any(first <= code <= last for first, last in _IDEOGRAPHS)
