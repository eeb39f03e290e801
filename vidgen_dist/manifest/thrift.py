"""Thrift's compact protocol, the format of Parquet footers: any struct, without its declaration.

A struct is a dictionary: field number -> type number and value. A boolean's type is its value.
"""

from __future__ import annotations

import struct
from typing import Any, TypeAlias

Struct: TypeAlias = dict[int, tuple[int, Any]]

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)

_MOST_LEVELS = 100


def decode(data: bytes) -> Struct:
    """The struct at the start of some bytes.

    Raises:
        ValueError: There is no struct.
    """
    try:
        return _Reader(data).struct(0)
    except (IndexError, struct.error) as error:
        raise ValueError(f"it ends within a value ({error})") from None


def encode(value: Struct) -> bytes:
    """The bytes of a struct."""
    out, last = bytearray(), 0
    for number, (kind, member) in sorted(value.items()):
        step = number - last
        out += bytes([step << 4 | kind]) if 0 < step < 16 else bytes([kind]) + _varint(_zigzag(number))
        out += _encoded(kind, member)
        last = number
    return bytes(out) + b"\0"


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def struct(self, level: int) -> Struct:
        found: Struct = {}
        number = 0
        while head := self._byte():
            kind = head & 15
            number = number + (head >> 4) if head >> 4 else _signed(self._number())
            found[number] = kind, None if kind in (TRUE, FALSE) else self._value(kind, level)
        return found

    def _value(self, kind: int, level: int) -> Any:
        if level > _MOST_LEVELS:
            raise ValueError(f"it has more than {_MOST_LEVELS} levels")
        if kind in (I16, I32, I64):
            return _signed(self._number())
        if kind == BYTE:
            return self._byte()
        if kind == DOUBLE:
            return struct.unpack("<d", self._take(8))[0]
        if kind == BINARY:
            return self._take(self._number())
        if kind in (LIST, SET):
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._number()
            return head & 15, [self._item(head & 15, level + 1) for _ in range(self._possible(count))]
        if kind == MAP:
            count = self._possible(self._number())
            kinds = self._byte() if count else 0
            of_key, of_item = kinds >> 4, kinds & 15
            return kinds, [
                (self._item(of_key, level + 1), self._item(of_item, level + 1)) for _ in range(count)
            ]
        if kind == STRUCT:
            return self.struct(level + 1)
        raise ValueError(f"type {kind} is not a type of Thrift")

    def _item(self, kind: int, level: int) -> Any:
        return self._byte() if kind in (TRUE, FALSE) else self._value(kind, level)

    def _possible(self, count: int) -> int:
        """A number of items, checked: each takes at least a byte."""
        if count > len(self._data) - self._at:
            raise ValueError(f"it ends within {count} items")
        return count

    def _number(self) -> int:
        number = shift = 0
        while (byte := self._byte()) & 128:
            number |= (byte & 127) << shift
            shift += 7
        return number | byte << shift

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _take(self, size: int) -> bytes:
        self._at += self._possible(size)
        return self._data[self._at - size : self._at]


def _signed(number: int) -> int:
    return number >> 1 ^ -(number & 1)


def _zigzag(number: int) -> int:
    return number << 1 if number >= 0 else (-number << 1) - 1


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def _encoded(kind: int, value: Any) -> bytes:
    if kind in (TRUE, FALSE):
        return b""
    if kind in (I16, I32, I64):
        return _varint(_zigzag(value))
    if kind == BYTE:
        return bytes([value])
    if kind == DOUBLE:
        return struct.pack("<d", value)
    if kind == BINARY:
        return _varint(len(value)) + bytes(value)
    if kind == STRUCT:
        return encode(value)
    kinds, items = value
    if kind == MAP:
        pairs = b"".join(_item(kinds >> 4, key) + _item(kinds & 15, item) for key, item in items)
        return _varint(len(items)) + (bytes([kinds]) if items else b"") + pairs
    head = bytes([len(items) << 4 | kinds]) if len(items) < 15 else bytes([240 | kinds]) + _varint(len(items))
    return head + b"".join(_item(kinds, item) for item in items)


def _item(kind: int, value: Any) -> bytes:
    return bytes([value]) if kind in (TRUE, FALSE) else _encoded(kind, value)
