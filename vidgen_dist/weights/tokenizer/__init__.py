"""Prompts to token ids, by the tokenizer class that the checkpoint was published for.

The ids are those of transformers 4.57; of what transformers 5 has saved, those of transformers 5. It is not
needed: `slow` and the classes made of it do what its Python classes do, `fast` what its Rust ones do.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from vidgen_dist.errors import Refused
from vidgen_dist.weights.checkpoint import Checkpoint
from vidgen_dist.weights.checkpoint_files import check_readable, is_there, what_it_is

# The libraries are imported where they are used: not every command that imports this module reads a prompt.

_log = logging.getLogger(__name__)

# Characters of what is cut off: prompts of 100 kB would fill the logs of a large run.
_MOST_TOLD = 1000

_WHOLE = "tokenizer.json"
"""Vocabulary, normalisation and all else in one file."""

_T5, _CLIP, _LLAMA = ("spiece.model",), ("vocab.json", "merges.txt"), ("tokenizer.model",)
_VOCABULARIES = {
    "T5Tokenizer": _T5,
    "T5TokenizerFast": _T5,
    "CLIPTokenizer": _CLIP,
    "CLIPTokenizerFast": _CLIP,
    "LlamaTokenizer": _LLAMA,
    "LlamaTokenizerFast": _LLAMA,
    "PreTrainedTokenizerFast": (),
}
"""Classes, and files of a vocabulary that each reads beside `tokenizer.json`."""

_NAMES_OF_5 = {"TokenizersBackend": "PreTrainedTokenizerFast"}
"""transformers 5's names of classes of transformers 4."""


class Tokenizer(Protocol):
    """Makes ids of a text."""

    model_max_length: int
    padding_side: str
    pad_id: int | None

    def encode(self, text: str, max_length: int | None = None) -> list[int]:
        """Ids of a text with the tokens around it, `max_length` of them at most."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens."""

    def special_id(self, key: str) -> int | None:
        """The id of a special token, by its key; None if there is none."""


def load_tokenizer(checkpoint: Checkpoint, component: str = "tokenizer") -> Tokenizer:
    """Load a component's tokenizer, of the very class that `model_index.json` names.

    A class whose name ends in Fast need not split every text as the one without, which diffusers loads where
    `model_index.json` names it. What transformers 5 has saved is a `tokenizer.json` alone, which says all.

    Raises:
        Refused: No such component or class, no vocabulary file, one that may not be read or does not parse,
            no padding.
    """
    folder = checkpoint.component_folder(component)
    class_name = _class_name(checkpoint, component)
    vocabularies = sorted({*_VOCABULARIES[class_name], _WHOLE})
    there = [name for name in vocabularies if is_there(folder / name)]
    if not there:
        raise Refused(f"{folder}: {class_name} has no vocabulary; allowed: {', '.join(vocabularies)}")
    for name in there:
        _check_whole(folder / name)

    from vidgen_dist.weights.tokenizer import loading

    tokenizer = loading.load(folder, class_name, alone=there == [_WHOLE])
    if tokenizer.pad_id is None:
        raise Refused(f"{folder}: {class_name} has no pad_token; shorter prompts need one")
    return tokenizer


def _class_name(checkpoint: Checkpoint, component: str) -> str:
    class_name = checkpoint.class_name(component)
    known = _NAMES_OF_5.get(class_name, class_name)
    if known not in _VOCABULARIES:
        raise Refused(
            f"{checkpoint.folder / 'model_index.json'}: {component} is a {class_name}; "
            f"allowed: {', '.join([*_VOCABULARIES, *_NAMES_OF_5])}"
        )
    return known


def _check_whole(path: Path) -> None:
    """See that a vocabulary is a file that can be read, and no pointer, page or piece of one.

    Raises:
        Refused: It is not.
    """
    check_readable(path)
    if told := what_it_is(path):
        raise Refused(f"{path}: not a vocabulary{told}")


def tokenize(tokenizer: Tokenizer, prompt: str, max_length: int) -> np.ndarray:
    """Token ids of a prompt, padded or cut to `max_length`: the first of `tokenize_with_mask`."""
    return tokenize_with_mask(tokenizer, prompt, max_length)[0]


def tokenize_with_mask(tokenizer: Tokenizer, prompt: str, max_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Token ids of a prompt, padded or cut to `max_length`, and which of them are the prompt's.

    What is cut off is logged as a warning, its beginning at least.

    Args:
        tokenizer: From `load_tokenizer`.
        prompt: The text.
        max_length: Tokens of the result, the end token included.

    Returns:
        int32 (1, L) and bool (1, L), L = `max_length`.
    """
    whole = tokenizer.encode(prompt)
    # Where there is place for one token alone, it is the end token.
    kept = whole[-1:] if max_length == 1 else tokenizer.encode(prompt, max_length)
    if len(whole) > max_length:
        _tell_left_out(tokenizer, whole, kept, max_length)
    padding = max_length - len(kept)
    assert tokenizer.pad_id is not None
    sides = (padding, 0) if tokenizer.padding_side == "left" else (0, padding)
    ids = np.pad(np.array(kept, np.int32), sides, constant_values=tokenizer.pad_id)
    mask = np.pad(np.ones(len(kept), np.bool_), sides)
    return ids[None], mask[None]


def _tell_left_out(tokenizer: Tokenizer, whole: list[int], kept: list[int], max_length: int) -> None:
    # One more token than is missing may be cut off, in favour of the end token.
    same = next((i for i, index in enumerate(kept) if index != whole[i]), len(kept))
    removed = tokenizer.decode(whole[same:])
    if len(removed) > _MOST_TOLD:
        removed = f"{removed[:_MOST_TOLD]}… ({len(removed):,} characters)"
    _log.warning("The prompt is longer than %d tokens; left out: %s", max_length, removed)
