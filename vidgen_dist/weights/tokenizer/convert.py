"""Rust tokenizers made of the vocabularies of slow ones, as transformers 4's fast classes make them.

They need not split every text as the slow ones do: whitespace and unknown characters are where they differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from vidgen_dist.weights.tokenizer.clip import END_OF_WORD, ClipTokenizer
from vidgen_dist.weights.tokenizer.piece_model import (
    BPE,
    CONTROL,
    UNIGRAM,
    USER_DEFINED,
    PieceModel,
    read_piece_model,
)
from vidgen_dist.weights.tokenizer.pieces import LlamaTokenizer, PieceTokenizer, T5Tokenizer

_SPACE = "▁"


def of_clip(slow: ClipTokenizer) -> Tokenizer:
    """A Rust tokenizer of CLIP's vocabulary."""
    model = models.BPE(
        vocab=slow.ids,
        merges=slow.merges,
        continuing_subword_prefix="",
        end_of_word_suffix=END_OF_WORD,
        fuse_unk=False,
        unk_token=_special(slow, "unk_token")[0],
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = Regex(r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+""")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    # Releases of tokenizers name these arguments differently.
    end, begin = _special(slow, "eos_token"), _special(slow, "bos_token")
    trim_offsets = add_prefix_space = False
    tokenizer.post_processor = processors.RobertaProcessing(end, begin, trim_offsets, add_prefix_space)
    return tokenizer


def _special(slow: ClipTokenizer, key: str) -> tuple[str, int]:
    """A special token that CLIP's class requires, and its id."""
    token, index = slow.special_token(key), slow.special_id(key)
    assert token is not None
    assert index is not None
    return token, index


def of_t5(slow: T5Tokenizer) -> Tokenizer:
    """A Rust tokenizer of T5's vocabulary, its further tokens behind it."""
    model = read_piece_model(slow.path.read_bytes())
    vocabulary = [(piece.text, piece.score) for piece in model.pieces]
    vocabulary += [(f"<extra_id_{i}>", 0.0) for i in range(slow.extra_ids - 1, -1, -1)]
    tokenizer = _of_pieces(model, vocabulary, model.unk_id, byte_fallback=False)
    steps = [normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), _SPACE)]
    if model.charsmap:
        steps.insert(0, normalizers.Precompiled(model.charsmap))
    tokenizer.normalizer = normalizers.Sequence(steps)
    scheme = _prepend_scheme(slow)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(replacement=_SPACE, prepend_scheme=scheme)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["$A", "</s>"],
        pair=["$A", "</s>", "$B", "</s>"],
        special_tokens=[("</s>", slow.id_of("</s>"))],
    )
    return tokenizer


def of_llama(slow: LlamaTokenizer) -> Tokenizer:
    """A Rust tokenizer of Llama's vocabulary."""
    model = read_piece_model(slow.path.read_bytes())
    vocabulary = [(slow.piece(i), 0.0) for i in range(3)]
    vocabulary += [(piece.text, piece.score) for piece in model.pieces[3:]]
    tokenizer = _of_pieces(model, vocabulary, 0, byte_fallback=True)
    if slow.legacy:
        steps = [normalizers.Prepend(prepend=_SPACE)] if slow.add_prefix_space else []
        tokenizer.normalizer = normalizers.Sequence(
            [*steps, normalizers.Replace(pattern=" ", content=_SPACE)]
        )
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
            replacement=_SPACE, prepend_scheme=_prepend_scheme(slow), split=False
        )
    decoding = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if slow.add_prefix_space:
        decoding.append(decoders.Strip(content=" ", left=1))
    tokenizer.decoder = decoders.Sequence(decoding)
    return tokenizer


def _of_pieces(
    model: PieceModel, vocabulary: list[tuple[str, float]], unk_id: int, *, byte_fallback: bool
) -> Tokenizer:
    """A Rust tokenizer of sentencepiece's pieces, those added that are no pieces of text.

    Raises:
        ValueError: It is a model of a type that Rust has none of.
    """
    if model.model_type == UNIGRAM:
        tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=unk_id, byte_fallback=byte_fallback))
    elif model.model_type == BPE:
        ids = {text: i for i, (text, _) in enumerate(vocabulary)}
        pieces = {piece.text: i for i, piece in enumerate(model.pieces)}
        tokenizer = Tokenizer(
            models.BPE(
                ids,
                _merges(pieces, dict(vocabulary)),
                unk_token=model.unk_piece,
                fuse_unk=True,
                byte_fallback=byte_fallback,
            )
        )
    else:
        raise ValueError(f"a sentencepiece model of type {model.model_type}; allowed: unigram, bpe")
    tokenizer.add_tokens(
        [
            AddedToken(piece.text, normalized=False, special=piece.kind == CONTROL)
            for piece in model.pieces
            if piece.kind in (CONTROL, USER_DEFINED)
        ]
    )
    return tokenizer


def _merges(ids: Mapping[str, int], scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """Pairs of pieces that make a piece, the best first."""

    def pairs(piece: str) -> Iterable[tuple[str, str]]:
        halves = ((piece[:i], piece[i:]) for i in range(1, len(piece)))
        return sorted(
            (pair for pair in halves if pair[0] in ids and pair[1] in ids),
            key=lambda pair: (ids[pair[0]], ids[pair[1]]),
        )

    found = [(pair, score) for piece, score in scores.items() for pair in pairs(piece)]
    found.sort(key=lambda of: (of[1], len(of[0][0]), len(of[0][1])), reverse=True)
    return [pair for pair, _ in found]


def _prepend_scheme(slow: PieceTokenizer) -> str:
    if not slow.add_prefix_space:
        return "never"
    return "always" if slow.legacy else "first"
