"""The parts of a sentencepiece model's file that a Rust tokenizer is made of.

It is a protocol buffer (`ModelProto` of sentencepiece_model.proto). Few of its fields are wanted, so its wire
format is read here: a message is a sequence of keys (field number and wire type) and values.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

UNIGRAM, BPE = 1, 2
CONTROL, USER_DEFINED = 3, 4

WITHOUT_DUMMY_PREFIX = b"\x1a\x02\x18\x00"
"""`normalizer_spec { add_dummy_prefix: false }`. Put behind a model, it overrides the model's own."""


@dataclass(frozen=True)
class Piece:
    """A piece of the vocabulary: its text, its score and what it is."""

    text: str
    score: float = 0.0
    kind: int = 1


@dataclass(frozen=True)
class PieceModel:
    """What is read of a model's file; defaults are those of the format."""

    pieces: list[Piece] = field(default_factory=list)
    model_type: int = UNIGRAM
    byte_fallback: bool = False
    unk_id: int = 0
    unk_piece: str = "<unk>"
    charsmap: bytes = b""


def read_piece_model(data: bytes) -> PieceModel:
    """Read a model.

    Raises:
        ValueError: It is none.
    """
    try:
        return _model(data)
    except (IndexError, struct.error, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"not a sentencepiece model: {error}") from error


def _model(data: bytes) -> PieceModel:
    pieces = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    for number, value in _fields(data):
        if number == 1:
            of = dict(_fields(_message(value)))
            (score,) = struct.unpack("<f", _message(of.get(2, b"\0\0\0\0")))
            pieces.append(Piece(_message(of[1]).decode(), score, _number(of.get(3, 1))))
        elif number in (2, 3):
            (trainer if number == 2 else normalizer).update(_fields(_message(value)))
    return PieceModel(
        pieces=pieces,
        model_type=_number(trainer.get(3, UNIGRAM)),
        byte_fallback=bool(trainer.get(35, 0)),
        unk_id=_number(trainer.get(40, 0)),
        unk_piece=_message(trainer.get(45, b"<unk>")).decode(),
        charsmap=_message(normalizer.get(2, b"")),
    )


def _message(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("a number where bytes belong")
    return value


def _number(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise TypeError("bytes where a number belongs")
    return value


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Numbers and values of a message's fields, in their order."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise TypeError(f"wire type {wire}")
        if at + size > len(data):
            raise IndexError("it ends too early")
        yield number, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
