"""T5's and Llama's tokenizers of sentencepiece, as transformers 4's `T5Tokenizer` and `LlamaTokenizer`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor
from tokenizers import AddedToken

from vidgen_dist.weights.tokenizer.piece_model import WITHOUT_DUMMY_PREFIX
from vidgen_dist.weights.tokenizer.settings import Settings
from vidgen_dist.weights.tokenizer.slow import SlowTokenizer, required, with_tokens

_SPACE = "▁"
"""What sentencepiece writes for a space."""


class PieceTokenizer(SlowTokenizer):
    """A tokenizer of sentencepiece's pieces.

    Args:
        path: The model.
        values: Arguments of the class, its defaults filled in. `legacy` is the way of transformers before
            release 4.31: each part between added tokens gets a space put before it.
        added: Tokens that are looked for before a text is split, by id.
    """

    def __init__(self, path: Path, values: Mapping[str, Any], added: Mapping[int, AddedToken]) -> None:
        self.path = path
        self.legacy = is_legacy(values)
        self.add_prefix_space = values.get("add_prefix_space", True)
        data = path.read_bytes()
        self._model = SentencePieceProcessor(**(values.get("sp_model_kwargs") or {}))
        self._model.LoadFromSerializedProto(data if self.legacy else data + WITHOUT_DUMMY_PREFIX)
        super().__init__(values, {**self._added_by_class(values, len(self._model)), **added})
        # A space at the beginning is lost unless something stands before it.
        self._before = self._common.special.get("unk_token") or ""
        self._before_length = len(self._model.encode(self._before))

    def _added_by_class(self, values: Mapping[str, Any], size: int) -> dict[int, AddedToken]:  # noqa: ARG002
        """Tokens that the class adds to a vocabulary of this size."""
        return {}

    def piece(self, index: int) -> str:
        """The piece or added token of an id."""
        added = self._added.get(index)
        return self._piece(index) if added is None else added.content

    def _vocabulary(self) -> dict[str, int]:
        return {self.piece(i): i for i in range(len(self._model))}

    def _pieces(self, text: str) -> list[str]:
        if self.legacy or not text:
            return super()._pieces(text)
        text = text.replace(_SPACE, " ")
        pieces = super()._pieces(_SPACE + text if self.add_prefix_space else text)
        if len(pieces) > 1 and pieces[0] == _SPACE and pieces[1] in self._special:
            return pieces[1:]
        return pieces

    def _split(self, text: str) -> Sequence[str]:
        if self.legacy or not text.startswith((_SPACE, " ")):
            found: list[str] = self._model.encode(text, out_type=str)
            return found
        found = self._model.encode(self._before + text, out_type=str)
        return found[self._before_length :] if len(found) >= self._before_length else found

    def _piece_id(self, piece: str) -> int:
        return int(self._model.piece_to_id(piece))

    def _piece(self, index: int) -> str:
        return str(self._model.IdToPiece(index))

    def _join(self, pieces: list[str]) -> str:
        if pieces[0].startswith(_SPACE) and self.add_prefix_space:
            pieces = [pieces[0][1:], *pieces[1:]]
        return str(self._model.decode(pieces))


def is_legacy(values: Mapping[str, Any]) -> bool:
    """Whether a class's arguments ask for the way of releases before 4.31, as they do by default."""
    legacy = values.get("legacy")
    return True if legacy is None else bool(legacy)


T5_TOKENS = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
LLAMA_TOKENS = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}


class T5Tokenizer(PieceTokenizer):
    """T5's tokenizer: the end token after each text, further tokens `<extra_id_0>` … behind the vocabulary.

    Args:
        path: `spiece.model`.
        settings: Settings of the folder.

    Raises:
        ValueError: A setting that is not allowed.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        values = with_tokens(settings, T5_TOKENS, special=True) | t5_extra_tokens(settings.values)
        required(values, "eos_token")
        self.extra_ids = int(values["extra_ids"])
        named = settings.values.get("additional_special_tokens")
        self._placed = self.extra_ids if named is None else len(_extra_ids(named))
        super().__init__(path, values, settings.added)

    def _added_by_class(self, values: Mapping[str, Any], size: int) -> dict[int, AddedToken]:  # noqa: ARG002
        # Counted backwards, as T5's vocabulary has them.
        last = size - 1 + self.extra_ids
        flags = {"lstrip": True, "rstrip": True, "special": True, "normalized": False}
        return {last - i: AddedToken(f"<extra_id_{i}>", **flags) for i in range(self._placed)}

    def _join(self, pieces: list[str]) -> str:
        return super()._join(pieces).strip()

    def _around(self, ids: list[int]) -> list[int]:
        end = self.special_id("eos_token")
        assert end is not None
        # One that the text writes counts.
        return ids if ids and ids[-1] == end else [*ids, end]


def t5_extra_tokens(values: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of T5's classes: how many further tokens there are, and their names.

    Raises:
        ValueError: `extra_ids` and the tokens that are named contradict each other.
    """
    count, named = values.get("extra_ids", 100), values.get("additional_special_tokens")
    made = [f"<extra_id_{i}>" for i in range(count)]
    if named is None:
        return {"extra_ids": count, "additional_special_tokens": made}
    extra = _extra_ids(named)
    if not extra:
        return {"extra_ids": count, "additional_special_tokens": [*named, *made]}
    if 0 < count != len(extra):
        raise ValueError(
            f"extra_ids is {count}, but additional_special_tokens has {len(extra)} of these; allowed: as many"
        )
    return {"extra_ids": count, "additional_special_tokens": named}


def _extra_ids(tokens: Sequence[Any]) -> list[Any]:
    return [token for token in tokens if "<extra_id_" in str(token)]


class LlamaTokenizer(PieceTokenizer):
    """Llama's tokenizer of sentencepiece: the beginning token before each text.

    Args:
        path: `tokenizer.model`.
        settings: Settings of the folder.

    Raises:
        ValueError: A setting that is not allowed.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        tokens = {**LLAMA_TOKENS, **{key: of for key, of in settings.values.items() if key == "pad_token"}}
        values = with_tokens(settings, tokens, normalized=False, special=True)
        self._ends = [
            key
            for key, usual in (("bos_token", True), ("eos_token", False))
            if values.get(f"add_{key}", usual)
        ]
        required(values, *self._ends)
        super().__init__(path, values, settings.added)

    def _around(self, ids: list[int]) -> list[int]:
        before = [self.special_id("bos_token")] if "bos_token" in self._ends else []
        after = [self.special_id("eos_token")] if "eos_token" in self._ends else []
        return [*before, *ids, *after]  # type: ignore[list-item]
