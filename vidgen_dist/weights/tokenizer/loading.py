"""Tokenizers from the files of a folder, by class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, pre_tokenizers

from vidgen_dist.errors import Refused
from vidgen_dist.weights.checkpoint_files import is_there, read_json
from vidgen_dist.weights.tokenizer import convert
from vidgen_dist.weights.tokenizer.clip import CLIP_TOKENS, ClipTokenizer
from vidgen_dist.weights.tokenizer.fast import FastTokenizer
from vidgen_dist.weights.tokenizer.pieces import (
    LLAMA_TOKENS,
    T5_TOKENS,
    LlamaTokenizer,
    T5Tokenizer,
    t5_extra_tokens,
)
from vidgen_dist.weights.tokenizer.settings import (
    CONFIG,
    SPECIAL,
    WHOLE,
    Settings,
    further_tokens,
    read_config,
    read_settings,
    special_token,
)

_SAVED_BY_5 = "backend"
"""A key that transformers 5 writes into `tokenizer_config.json`, and no release before."""

_PADS_LEFT = ("LlamaTokenizer", "LlamaTokenizerFast")
"""Classes for which transformers 5 leaves `padding_side` out where it is left."""

_PLAIN = ("clean_up_tokenization_spaces", "model_max_length", "padding_side", "split_special_tokens")


@dataclass(frozen=True)
class _Kind:
    """What the slow and the fast class of a model have in common.

    Args:
        tokens: Special tokens by default.
        slow: Makes the slow one of a folder and settings; None if there is no slow class.
        converted: Makes a Rust tokenizer of the slow one.
        further: Arguments that the class makes of its arguments.
        padding_side: Where the fast class puts padding by default.
    """

    tokens: Mapping[str, str] = field(default_factory=dict)
    slow: Callable[[Path, Settings], Any] | None = None
    converted: Callable[[Any], Tokenizer] | None = None
    further: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda _: {}
    padding_side: str = "right"


def _clip(folder: Path, settings: Settings) -> ClipTokenizer:
    return ClipTokenizer(folder / "vocab.json", folder / "merges.txt", settings)


_KINDS = {
    "T5Tokenizer": _Kind(
        T5_TOKENS, lambda folder, of: T5Tokenizer(folder / "spiece.model", of), convert.of_t5, t5_extra_tokens
    ),
    "CLIPTokenizer": _Kind(CLIP_TOKENS, _clip, convert.of_clip),
    "LlamaTokenizer": _Kind(
        LLAMA_TOKENS,
        lambda folder, of: LlamaTokenizer(folder / "tokenizer.model", of),
        convert.of_llama,
        padding_side="left",
    ),
    "PreTrainedTokenizer": _Kind(),
}


def load(folder: Path, class_name: str, *, alone: bool) -> Any:
    """Load the tokenizer of a folder.

    Args:
        folder: The component's folder. It has a vocabulary.
        class_name: One that transformers 4 has.
        alone: Whether `tokenizer.json` is all that there is of its vocabulary.

    Returns:
        A slow or a fast tokenizer.

    Raises:
        Refused: Files that cannot be read, or that contradict each other.
    """
    config = read_config(folder)
    is_fast = class_name.endswith("Fast")
    of_one_file = is_there(folder / WHOLE) and (_SAVED_BY_5 in config or (alone and not is_fast))
    kind = _KINDS[class_name.removesuffix("Fast")]
    tokenizer: Any
    try:
        if of_one_file:
            tokenizer = _of_one_file(folder / WHOLE, class_name, kind, config)
        elif is_fast:
            tokenizer = _fast(folder, class_name, kind, read_settings(folder))
        else:
            assert kind.slow is not None
            tokenizer = kind.slow(folder, read_settings(folder))
    # Each vocabulary library raises its own: sentencepiece RuntimeError, tokenizers a bare Exception.
    except Exception as error:
        raise Refused(f"{folder}: {class_name} cannot be read: {error}") from error
    if of_one_file:
        _check_ends(folder / CONFIG, tokenizer, config)
    return tokenizer


def _fast(folder: Path, class_name: str, kind: _Kind, settings: Settings) -> FastTokenizer:
    others = [name for name in settings.values.get("fast_tokenizer_files") or () if name != WHOLE]
    if others:
        raise ValueError(f"{CONFIG} names {', '.join(others)}; allowed is {WHOLE} alone")
    values = {**kind.tokens, **settings.values}
    values |= kind.further(values)
    prefix_space = settings.values.get("add_prefix_space")
    if not is_there(folder / WHOLE):
        rust, values = _converted(folder, kind, settings, values)
    elif prefix_space is not None and class_name in ("T5TokenizerFast", "LlamaTokenizerFast"):
        # transformers makes these anew if they are told of a space before the text.
        rust, values = _converted(folder, kind, Settings(values), values)
    else:
        rust = Tokenizer.from_file(str(folder / WHOLE))
    tokenizer = FastTokenizer(rust, values, settings.added, kind.padding_side)
    if class_name == "LlamaTokenizerFast":
        tokenizer.put_around(
            bos=bool(values.get("add_bos_token", True)), eos=bool(values.get("add_eos_token", False))
        )
    if class_name == "CLIPTokenizerFast" and not isinstance(rust.pre_tokenizer, pre_tokenizers.Sequence):
        raise ValueError(f"{WHOLE} splits text as no release of transformers from 4.17 on; make it anew")
    return tokenizer


def _converted(
    folder: Path, kind: _Kind, settings: Settings, values: Mapping[str, Any]
) -> tuple[Tokenizer, dict[str, Any]]:
    """A Rust tokenizer made of the slow one, and the arguments that the slow one adds."""
    assert kind.slow is not None
    assert kind.converted is not None
    slow = kind.slow(folder, settings)
    return kind.converted(slow), {**values, **slow.values}


def _of_one_file(path: Path, class_name: str, kind: _Kind, config: Mapping[str, Any]) -> FastTokenizer:
    """A tokenizer that is as `tokenizer.json` says, whatever a class would make of it."""
    splits = read_json(path).get("pre_tokenizer") or {}
    side = "left" if class_name in _PADS_LEFT and _SAVED_BY_5 in config else "right"
    rust = Tokenizer.from_file(str(path))
    tokens = {key: token for key, token in kind.tokens.items() if rust.token_to_id(token) is not None}
    tokens |= {key: config[key] for key in SPECIAL[:-1] if key in config}
    usual = CLIP_TOKENS if class_name.startswith("CLIP") else {}
    values: dict[str, Any] = {
        "padding_side": side,
        # It is in the file; transformers 4 would put another there.
        "add_prefix_space": splits.get("add_prefix_space", False),
        **{key: config[key] for key in _PLAIN if key in config},
        **usual,
        **{key: special_token(value) for key, value in tokens.items() if value is not None},
        **further_tokens(config),
    }
    return FastTokenizer(rust, values, {})


def _check_ends(path: Path, tokenizer: FastTokenizer, config: Mapping[str, Any]) -> None:
    """See that the tokens around a text are those that the settings say.

    Raises:
        Refused: `tokenizer.json`, which is read, says otherwise.
    """
    around = tokenizer.encode("")
    for key, token in (("add_bos_token", "bos_token"), ("add_eos_token", "eos_token")):
        said = config.get(key)
        if said is not None and bool(said) != (tokenizer.special_id(token) in around):
            raise Refused(
                f"{path}: {key} is {said!r}; allowed is {not said}, as {WHOLE} has it, or leave it out"
            )
