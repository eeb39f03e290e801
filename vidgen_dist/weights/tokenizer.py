"""Prompts to token ids, by the tokenizer class that the checkpoint was published for."""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vidgen_dist.errors import Refused
from vidgen_dist.weights.checkpoint import Checkpoint
from vidgen_dist.weights.files import check_readable, is_there, read_json, what_it_is

_log = logging.getLogger(__name__)

# Characters of what is cut off: prompts of 100 kB would fill the logs of a large run.
_MOST_TOLD = 1000


def load_tokenizer(checkpoint: Checkpoint, component: str = "tokenizer") -> Any:
    """Load a component's tokenizer, of the very class that `model_index.json` names.

    AutoTokenizer would prefer a fast class, which need not split every text as the sentencepiece class
    does that diffusers loads. What transformers 5 has saved is a `tokenizer.json` alone, which says all.

    Raises:
        Refused: No such component or class, no vocabulary file, one that may not be read or does not parse,
            no padding.
    """
    folder = checkpoint.component_folder(component)
    kind = _tokenizer_class(checkpoint, component)
    settings = _settings(folder)
    vocabularies = sorted({*kind.vocab_files_names.values(), _WHOLE})
    there = [name for name in vocabularies if is_there(folder / name)]
    if not there:
        raise Refused(f"{folder}: {kind.__name__} has no vocabulary; allowed: {', '.join(vocabularies)}")
    for name in there:
        _check_whole(folder / name)
    alone = there == [_WHOLE] and not kind.__name__.endswith("Fast")
    of_one_file = _WHOLE in there and (alone or _SAVED_BY_5 in settings)
    damaged = f"{folder}: {kind.__name__} cannot be read"
    try:
        if of_one_file:
            tokenizer = _of_one_file(folder / _WHOLE, kind, settings)
        else:
            tokenizer = kind.from_pretrained(folder, local_files_only=True, **_further_tokens(settings))
    # Each vocabulary library raises its own: sentencepiece RuntimeError, tokenizers a bare Exception.
    except Exception as error:
        raise Refused(f"{damaged}: {error}") from error
    # transformers returns False where sentencepiece cannot parse the vocabulary.
    if tokenizer is False:
        raise Refused(f"{damaged}: no vocabulary in {', '.join(vocabularies)}")
    if of_one_file:
        _check_ends(folder / "tokenizer_config.json", tokenizer, settings)
    if tokenizer.pad_token is None:
        raise Refused(f"{folder}: {kind.__name__} has no pad_token; shorter prompts need one")
    return tokenizer


_WHOLE = "tokenizer.json"
"""Vocabulary, normalisation and all else in one file."""

_SAVED_BY_5 = "backend"
"""A key that transformers 5 writes into `tokenizer_config.json`, and no release before."""

_PADS_LEFT = ("LlamaTokenizer", "LlamaTokenizerFast")
"""Classes for which transformers 5 leaves `padding_side` out where it is left."""

_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_PLAIN = ("clean_up_tokenization_spaces", "model_max_length", "padding_side", "split_special_tokens")


def _settings(folder: Path) -> Mapping[str, Any]:
    path = folder / "tokenizer_config.json"
    return read_json(path) if is_there(path) else {}


def _check_whole(path: Path) -> None:
    """See that a vocabulary is a file that can be read, and no pointer, page or piece of one.

    Raises:
        Refused: It is not.
    """
    check_readable(path)
    if told := what_it_is(path):
        raise Refused(f"{path}: not a vocabulary{told}")


def _check_ends(path: Path, tokenizer: Any, settings: Mapping[str, Any]) -> None:
    """See that the tokens around a text are those that the settings say.

    Raises:
        Refused: `tokenizer.json`, which is read, says otherwise.
    """
    around = tokenizer("", verbose=False)["input_ids"]
    for key, token in (("add_bos_token", tokenizer.bos_token_id), ("add_eos_token", tokenizer.eos_token_id)):
        said = settings.get(key)
        if said is not None and bool(said) != (token in around):
            raise Refused(
                f"{path}: {key} is {said!r}; allowed is {not said}, as {_WHOLE} has it, or leave it out"
            )


def _further_tokens(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by which transformers 4 reads the list of tokens that transformers 5 writes."""
    listed = settings.get("extra_special_tokens")
    if not isinstance(listed, list):
        return {}
    known = settings.get("additional_special_tokens") or []
    tokens = [_token(value) for value in (*known, *(value for value in listed if value not in known))]
    return {"extra_special_tokens": {}, "additional_special_tokens": tokens}


def _of_one_file(path: Path, kind: Any, settings: Mapping[str, Any]) -> Any:
    """A tokenizer that is as `tokenizer.json` says, whatever a class would make of it."""
    import transformers
    from tokenizers import Tokenizer

    splits = read_json(path).get("pre_tokenizer") or {}
    side = "left" if kind.__name__ in _PADS_LEFT and _SAVED_BY_5 in settings else "right"
    whole = Tokenizer.from_file(str(path))
    usual = {name: of.default for name, of in inspect.signature(kind.__init__).parameters.items()}
    tokens = {name: usual[name] for name in _TOKENS if whole.token_to_id(str(usual.get(name))) is not None}
    tokens |= {name: settings[name] for name in _TOKENS if name in settings}
    of_clip = kind.__name__.startswith("CLIP")
    # CLIP's own takes the ends of words out of what it decodes.
    made = transformers.CLIPTokenizerFast if of_clip else transformers.PreTrainedTokenizerFast
    return made(
        tokenizer_object=whole,
        # It is in the file; transformers 4 would put another there.
        add_prefix_space=splits.get("add_prefix_space", False),
        **{"padding_side": side, **{key: settings[key] for key in _PLAIN if key in settings}},
        **{name: _token(value) for name, value in tokens.items() if value is not None},
        **_further_tokens(settings),
    )


def _token(value: Any) -> Any:
    """A special token as a config has it: a text, or an object."""
    if not isinstance(value, Mapping):
        return value
    from transformers import AddedToken

    return AddedToken(**{key: of for key, of in value.items() if not key.startswith("_")})


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


_NAMES_OF_5 = {"TokenizersBackend": "PreTrainedTokenizerFast"}
"""transformers 5's names of classes of transformers 4."""


def _tokenizer_class(checkpoint: Checkpoint, component: str) -> Any:
    with _without_framework_advice():
        import transformers
    class_name = checkpoint.class_name(component)
    kind = getattr(transformers, _NAMES_OF_5.get(class_name, class_name), None)
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
