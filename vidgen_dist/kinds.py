"""Kinds of values that a row's field may hold: which are allowed, and which images and clips they hold.

A kind knows nothing about files; `vidgen_dist.manifest.columns` says how a manifest's column holds it.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from vidgen_dist.inline import decode_inline, is_inline


class NotAllowed(ValueError):
    """A value that a kind does not take; the message says what is allowed."""

    def __init__(self, allowed: str) -> None:
        super().__init__(allowed)
        self.allowed = allowed


class Source(NamedTuple):
    """An image or a clip in a value: its address or content, and whether it is a clip."""

    value: Any
    is_clip: bool


class Kind:
    """The base of all kinds. A kind is a frozen dataclass."""

    is_text: ClassVar[bool] = False
    """Whether a value on the command line is taken literally; other values are read as YAML."""

    has_sources: ClassVar[bool] = False
    """Whether values hold images or clips."""

    @property
    def allowed(self) -> str:
        """What is allowed, for messages."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """The kind's name, for the documentation."""
        raise NotImplementedError

    def parse(self, value: Any) -> Any:
        """A value, not None, in the form that requests have.

        Raises:
            NotAllowed: The kind does not take it.
        """
        raise NotImplementedError

    def sources(self, value: Any) -> Mapping[str, Source]:
        """The images and clips in a parsed value, by what follows the field's name: `""`, or `[0].image`."""
        del value
        return {}

    def replace(self, value: Any, sources: Mapping[str, Any]) -> Any:
        """A parsed value with some of its images and clips replaced, named as in `sources`.

        With None for all of them, the result is what counts besides their content; None if nothing does.
        """
        del sources
        return value

    @property
    def has_addresses(self) -> bool:
        """Whether values hold paths or URIs."""
        return self.has_sources

    def with_addresses(self, value: Any, change: Callable[[str], str]) -> Any:
        """A value with its paths and URIs changed; images and clips that it holds itself are not."""
        addresses = {
            at: each.value for at, each in self.sources(value).items() if isinstance(each.value, str)
        }
        return self.replace(
            value, {at: change(text) for at, text in addresses.items() if not is_inline(text)}
        )


def is_utf8(text: str) -> bool:
    """Whether UTF-8 can encode the text; it cannot encode lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True)
class Text(Kind):
    """A text, which may be empty."""

    is_text: ClassVar[bool] = True
    allowed: ClassVar[str] = "a text"
    name: ClassVar[str] = "text"

    def parse(self, value: Any) -> Any:
        """The same text."""
        if not isinstance(value, str):
            raise NotAllowed(self.allowed)
        if not value.isascii() and not is_utf8(value):
            raise NotAllowed("a text that UTF-8 can hold")
        return value


@dataclass(frozen=True)
class RowId(Text):
    """A text that is not empty. A column may also hold whole numbers, which are written out."""

    name: ClassVar[str] = "text or whole number"

    def parse(self, value: Any) -> Any:
        """The same text."""
        if value == "":
            raise NotAllowed("a text that is not empty")
        return super().parse(value)


@dataclass(frozen=True)
class Flag(Kind):
    """True or false."""

    allowed: ClassVar[str] = "true or false"
    name: ClassVar[str] = "true/false"

    def parse(self, value: Any) -> Any:
        """The same."""
        if not isinstance(value, bool):
            raise NotAllowed(self.allowed)
        return value


@dataclass(frozen=True)
class Whole(Kind):
    """A whole number in a range; also as a float without a fraction.

    Args:
        low, high: The ends of the range, which are allowed.
    """

    low: int = 1
    high: int = 2**31 - 1

    @property
    def allowed(self) -> str:
        """The range."""
        return f"a whole number from {self.low} to {self.high}"

    @property
    def name(self) -> str:
        """The range, unless only memory limits it."""
        return "whole number" + (f", {self.low} to {self.high}" if self.high < 2**31 - 1 else "")

    def parse(self, value: Any) -> Any:
        """An int."""
        if type(value) is int and self.low <= value <= self.high:
            return value
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise NotAllowed(self.allowed)
        if isinstance(value, numbers.Integral):
            whole = int(value)
        else:
            # pandas writes a nullable integer column as floats: 49.0 is 49.
            number = float(value)
            if not number.is_integer():
                raise NotAllowed(self.allowed)
            if 2**53 < number <= self.high:
                raise NotAllowed(f"{self.allowed}; a float is exact up to 2**53, write an integer")
            whole = int(number)
        if not self.low <= whole <= self.high:
            raise NotAllowed(self.allowed)
        return whole


@dataclass(frozen=True)
class Number(Kind):
    """A finite number in a range.

    Args:
        low, high: The ends of the range, which are allowed.
        above: Whether the lower end is not allowed.
    """

    low: float
    high: float
    above: bool = False

    @property
    def allowed(self) -> str:
        """The range."""
        if self.above:
            return f"a number above {self.low:g} up to {self.high:g}"
        return f"a number from {self.low:g} to {self.high:g}"

    @property
    def name(self) -> str:
        """The range, unless it only keeps numbers finite."""
        if self.high >= 1e6:
            return "number"
        return f"number, {'above ' if self.above else ''}{self.low:g} to {self.high:g}"

    def parse(self, value: Any) -> Any:
        """A float."""
        if type(value) is float and self.low < value <= self.high:
            return value
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise NotAllowed(self.allowed)
        number = float(value)
        inside = self.low < number <= self.high if self.above else self.low <= number <= self.high
        if not inside or not math.isfinite(number):
            raise NotAllowed(self.allowed)
        return number


@dataclass(frozen=True)
class _Media(Kind):
    """One image or clip. It is checked only when it is opened."""

    is_text: ClassVar[bool] = True
    has_sources: ClassVar[bool] = True
    allowed: ClassVar[str] = "a path or URI that is not empty, or what else the field may hold"
    is_clip: ClassVar[bool]

    def parse(self, value: Any) -> Any:
        """The same; for a text that holds a file itself, such as a `data:` URI, the file's bytes."""
        if (isinstance(value, str | bytes) and not value) or isinstance(value, numbers.Number):
            raise NotAllowed(self.allowed)
        if not isinstance(value, str):
            return value
        try:
            held = decode_inline(value)
        except ValueError as error:
            raise NotAllowed(str(error)) from None
        return value if held is None else held

    def sources(self, value: Any) -> Mapping[str, Source]:
        """The value itself."""
        return {"": Source(value, self.is_clip)}

    def replace(self, value: Any, sources: Mapping[str, Any]) -> Any:
        """The replacement."""
        return sources.get("", value)


@dataclass(frozen=True)
class Image(_Media):
    """An image: a path, URI, encoded bytes or PIL image."""

    name: ClassVar[str] = "text, bytes, or a `datasets` image"
    is_clip: ClassVar[bool] = False


@dataclass(frozen=True)
class Clip(_Media):
    """A clip: a path or URI, or a sequence of PIL images."""

    name: ClassVar[str] = "text"
    is_clip: ClassVar[bool] = True


@dataclass(frozen=True)
class LoraPlaces(Kind):
    """One LoRA or several: hub ids, folders, or paths or URIs of files."""

    allowed: ClassVar[str] = "a hub id, folder, path or URI of a LoRA, or a list of these"
    name: ClassVar[str] = "text, or a list of texts"
    has_addresses: ClassVar[bool] = True

    def parse(self, value: Any) -> Any:
        """The texts, a tuple."""
        places = (value,) if isinstance(value, str) else value
        if not isinstance(places, list | tuple) or not places:
            raise NotAllowed(self.allowed)
        if not all(isinstance(place, str) and place and is_utf8(place) for place in places):
            raise NotAllowed(self.allowed)
        return tuple(places)

    def with_addresses(self, value: Any, change: Callable[[str], str]) -> Any:
        """The places with paths and URIs of files changed; `org/name` is a hub id."""
        if isinstance(value, str):
            return change(value) if _names_file(value) else value
        return tuple(change(place) if _names_file(place) else place for place in value)


def _names_file(place: str) -> bool:
    return "://" in place or place.startswith(("/", ".", "~")) or place.endswith(".safetensors")


@dataclass(frozen=True)
class LoraScales(Kind):
    """A scale for each LoRA: one number or a list, in which an empty entry is 1."""

    allowed: ClassVar[str] = "a finite number, or a list with one for each LoRA"
    name: ClassVar[str] = "number, or a list of numbers"

    def parse(self, value: Any) -> Any:
        """The scales, a tuple of floats."""
        given = value if isinstance(value, list | tuple) else (value,)
        scales = [1.0 if each is None else each for each in given]
        if not scales or any(isinstance(each, bool) or not isinstance(each, numbers.Real) for each in scales):
            raise NotAllowed(self.allowed)
        floats = tuple(float(each) for each in scales)
        if not all(map(math.isfinite, floats)):
            raise NotAllowed(self.allowed)
        return floats
