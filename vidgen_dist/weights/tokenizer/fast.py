"""Tokenizers of the library `tokenizers`, as transformers 4's fast classes set them up."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Tokenizer, pre_tokenizers, processors

from vidgen_dist.weights.tokenizer.settings import read_common
from vidgen_dist.weights.tokenizer.slow import tidied


class FastTokenizer:
    """A Rust tokenizer of one text at a time.

    Args:
        rust: The tokenizer. It is changed.
        values: Arguments of the class, its defaults filled in.
        added: Tokens that are looked for before a text is split, by id.
        padding_side: Where the class puts padding if neither arguments nor the tokenizer say.

    Raises:
        ValueError: An argument that is not allowed.
    """

    def __init__(
        self,
        rust: Tokenizer,
        values: Mapping[str, Any],
        added: Mapping[int, AddedToken],
        padding_side: str = "right",
    ) -> None:
        values = {**_said_by(rust), **values}
        rust.no_truncation()
        rust.no_padding()
        self._rust = rust
        self._common = read_common(values, padding_side)
        rust.encode_special_tokens = self._common.split_special_tokens
        self._add(added)
        self._set_prefix_space(values.get("add_prefix_space", False))
        self.model_max_length = self._common.model_max_length
        self.padding_side = self._common.padding_side
        self.pad_id = self.special_id("pad_token")

    def special_id(self, key: str) -> int | None:
        """The id of a special token, by its key; None if there is none."""
        token = self._common.special.get(key)
        if token is None:
            return None
        index = self._rust.token_to_id(token)
        unknown = self._common.special.get("unk_token")
        return self._rust.token_to_id(unknown) if index is None and unknown is not None else index

    def encode(self, text: str, max_length: int | None = None) -> list[int]:
        """Ids of a text, the tokens around it included.

        Args:
            text: The text.
            max_length: Ids of the result at most.
        """
        encoding = self._rust.encode(text, add_special_tokens=False)
        if max_length is not None:
            kept = max(max_length - self._rust.num_special_tokens_to_add(False), 0)
            encoding.truncate(kept, direction=self._common.truncation_side)
        ids: list[int] = self._rust.post_process(encoding).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens."""
        text = self._rust.decode(list(ids))
        suffix = getattr(self._rust.model, "end_of_word_suffix", None)
        if suffix:
            text = text.replace(suffix, " ").strip()
        return tidied(text) if self._common.tidy else text

    def put_around(self, *, bos: bool, eos: bool) -> None:
        """Put the beginning token before each text, the end token behind it, instead of what stood there.

        Raises:
            ValueError: There is no such token.
        """
        template, tokens = ["$A:0"], []
        for key, wanted, at in (("bos_token", bos, 0), ("eos_token", eos, 2)):
            token = self._common.special.get(key)
            if wanted:
                if token is None:
                    raise ValueError(f"add_{key} is True, but there is no {key}")
                template.insert(at, f"{token}:0")
                tokens.append((token, self.special_id(key)))
        self._rust.post_processor = processors.TemplateProcessing(
            single=" ".join(template), special_tokens=tokens
        )

    def _add(self, added: Mapping[int, AddedToken]) -> None:
        """Let the Rust tokenizer look for tokens that it does not know of."""
        known = self._rust.get_added_tokens_decoder().values()
        seen = set(map(repr, known))
        tokens: list[Any] = [token for _, token in sorted(added.items()) if repr(token) not in seen]
        names = {*(token.content for token in known), *map(str, tokens)}
        special = self._common.special.all()
        # A text is compared by what it says, a token by how it is looked for, too.
        tokens += [t for t in special if t not in names and t not in tokens]
        special_names = set(map(str, special))
        for i, token in enumerate(tokens):
            is_special = str(token) in special_names or (isinstance(token, AddedToken) and token.special)
            if isinstance(token, str):
                tokens[i] = AddedToken(token, special=is_special)
            else:
                token.special = is_special
        if tokens:
            self._rust.add_tokens(tokens)

    def _set_prefix_space(self, prefix_space: Any) -> None:
        splitter = self._rust.pre_tokenizer
        if not isinstance(splitter, pre_tokenizers.ByteLevel) or not isinstance(prefix_space, bool):
            return
        state = json.loads(splitter.__getstate__())
        state.pop("type")
        if state["add_prefix_space"] != prefix_space:
            self._rust.pre_tokenizer = pre_tokenizers.ByteLevel(**{**state, "add_prefix_space": prefix_space})


def _said_by(rust: Tokenizer) -> dict[str, Any]:
    """Arguments that `tokenizer.json` holds: how texts are cut and padded."""
    said: dict[str, Any] = {}
    if rust.truncation is not None:
        said |= {"truncation_side": rust.truncation["direction"]}
    if rust.padding is not None:
        said |= {"pad_token": rust.padding["pad_token"], "padding_side": rust.padding["direction"]}
    return said
