"""Prompts to token ids, by the tokenizer class that the checkpoint was published for."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np

from vidgen_dist.errors import Refused
from vidgen_dist.weights.checkpoint import Checkpoint

_log = logging.getLogger(__name__)

# Characters of what is cut off: prompts of 100 kB would fill the logs of a large run.
_MOST_TOLD = 1000


def load_tokenizer(checkpoint: Checkpoint, component: str = "tokenizer") -> Any:
    """Load a component's tokenizer, of the very class that `model_index.json` names.

    AutoTokenizer would prefer a fast class, which need not split every text as the sentencepiece class
    does that diffusers loads.

    Raises:
        Refused: No such component or class, no vocabulary file, one that does not parse, or no padding.
    """
    folder = checkpoint.component_folder(component)
    kind = _tokenizer_class(checkpoint, component)
    vocabularies = sorted(kind.vocab_files_names.values())
    if not any((folder / name).is_file() for name in vocabularies):
        raise Refused(f"{folder}: {kind.__name__} has no vocabulary; allowed: {', '.join(vocabularies)}")
    damaged = f"{folder}: {kind.__name__} cannot be read"
    try:
        tokenizer = kind.from_pretrained(folder, local_files_only=True)
    # Each vocabulary library raises its own: sentencepiece RuntimeError, tokenizers a bare Exception.
    except Exception as error:
        raise Refused(f"{damaged}: {error}") from error
    # transformers returns False where sentencepiece cannot parse the vocabulary.
    if not isinstance(tokenizer, kind):
        raise Refused(f"{damaged}: no vocabulary in {', '.join(vocabularies)}")
    if tokenizer.pad_token is None:
        raise Refused(f"{folder}: {kind.__name__} has no pad_token; shorter prompts need one")
    return tokenizer


def tokenize(tokenizer: Any, prompt: str, max_length: int) -> np.ndarray:
    """Token ids of a prompt, padded or cut to `max_length`: the first of `tokenize_with_mask`."""
    return tokenize_with_mask(tokenizer, prompt, max_length)[0]


def tokenize_with_mask(tokenizer: Any, prompt: str, max_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Token ids of a prompt, padded or cut to `max_length`, and which of them are the prompt's.

    What is cut off is logged as a warning, its beginning at least.

    Args:
        tokenizer: From `load_tokenizer`.
        prompt: The text.
        max_length: Tokens of the result, the end token included.

    Returns:
        int32 (1, L) and bool (1, L), L = `max_length`.
    """
    whole = tokenizer(prompt, add_special_tokens=True, verbose=False)["input_ids"]
    if max_length == 1:
        # transformers gives up cutting where nothing but the end token would be left.
        ids, mask = whole[-1:], [1]
    else:
        cut = {"padding": "max_length", "max_length": max_length, "truncation": True}
        made = tokenizer(prompt, add_special_tokens=True, **cut)
        ids, mask = made["input_ids"], made["attention_mask"]
    if len(whole) > max_length:
        # One more token than is missing may be cut off, in favour of the end token.
        kept = next((i for i in range(max_length) if ids[i] != whole[i]), max_length)
        removed = tokenizer.decode(whole[kept:], skip_special_tokens=True)
        if len(removed) > _MOST_TOLD:
            removed = f"{removed[:_MOST_TOLD]}… ({len(removed):,} characters)"
        _log.warning("The prompt is longer than %d tokens; left out: %s", max_length, removed)
    return np.array([ids], np.int32), np.array([mask], np.bool_)


def _tokenizer_class(checkpoint: Checkpoint, component: str) -> Any:
    with _without_framework_advice():
        import transformers
    class_name = checkpoint.class_name(component)
    kind = getattr(transformers, class_name, None)
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedTokenizerBase)):
        raise Refused(
            f"{checkpoint.folder / 'model_index.json'}: {component} is a {class_name}; "
            f"allowed: a tokenizer of transformers {transformers.__version__}"
        )
    return kind


@contextlib.contextmanager
def _without_framework_advice() -> Iterator[None]:
    """Keep transformers from advising, when it is imported, to install torch: tokenizers need none."""
    logger = logging.getLogger("transformers")

    def keep(record: logging.LogRecord) -> bool:
        return "PyTorch" not in record.getMessage()

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
