"""The types of a run spec's values, with what is allowed and how messages and documentation call it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import PydanticCustomError

from vidgen_dist.errors import Refused
from vidgen_dist.provenance import check_producer
from vidgen_dist.quality import FLAGS

MAX_REPLICAS = 100_000
MAX_DEGREE = 1_024

AUTO: Literal["auto"] = "auto"
"""As `topology.replicas`: the split of the NPUs that is expected to be the fastest."""

WHOLE_PART = "whole_part"
"""Type of a pydantic error about several keys of a part, whose message names them itself."""


@dataclass(frozen=True)
class Named:
    """What the documentation calls a type whose constraints do not say enough."""

    name: str


def parse_bytes(text: str) -> int:
    """Bytes of a size with its unit: `64GB` is 64 times 10**9, `64GiB` 64 times 2**30.

    Raises:
        ValueError: The text is not a size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT])(i?)B", text.strip(), re.IGNORECASE)
    if match is None or not float(match[1]):
        raise ValueError(f"{text!r} is not allowed; it should be a size with its unit, such as 64GB or 60GiB")
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** ("KMGT".index(match[2].upper()) + 1))


def parse_seconds(text: str) -> float:
    """Seconds of a duration with its unit: `30s`, `10m`, `2h`.

    Raises:
        ValueError: The text is not a duration.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh])", text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not allowed; it should be a duration with a unit, such as 30s or 10m")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def _check_duration(text: str) -> str:
    try:
        parse_seconds(text)
    except ValueError:
        raise PydanticCustomError(
            "duration", "it should be a duration with a unit, s, m or h, such as 30s or 10m"
        ) from None
    return text


def _check_failures(value: Any) -> Any:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", value.strip()) if isinstance(value, str) else None
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if not whole and (match is None or float(match[1]) > 100):
        raise PydanticCustomError(
            "failures", "it should be a number of rows, or a share of them from 0% to 100%"
        )
    return value


def _check_size(text: str) -> str:
    try:
        parse_bytes(text)
    except ValueError:
        raise PydanticCustomError("size", "it should be a size with its unit, such as 64GB") from None
    return text


def _check_retry(text: str) -> str:
    if re.fullmatch(r"failed(:\S+)?", text) is None:
        raise PydanticCustomError("retry", "it should be failed or failed:CLASS, such as failed:MediaError")
    return text


def _check_quality_flag(text: str) -> str:
    if text not in FLAGS:
        raise PydanticCustomError("flag", "it should be one of {flags}", {"flags": ", ".join(FLAGS)})
    return text


def _check_producer(text: str) -> str:
    try:
        return check_producer(text)
    except Refused as error:
        allowed = str(error).rpartition("allowed: ")[2]
        raise PydanticCustomError("producer", "it should be {allowed}", {"allowed": allowed}) from None


def _normalise_settings(value: Mapping[str, Any]) -> dict[str, Any] | None:
    """Settings of a config file in one form for one meaning: an empty mapping is None, 3.0 is 3."""
    for key, held in value.items():
        if not _is_setting(held):
            raise PydanticCustomError(
                WHOLE_PART,
                "{key}: {value} is not allowed; it should be a finite number, a text, true, false, null or a "
                "list of these",
                {"key": key, "value": repr(held)[:100]},
            )
    return {key: _normalise_setting(held) for key, held in value.items()} or None


def _is_setting(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_setting(inner) and not isinstance(inner, list | tuple) for inner in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, str | int)


def _normalise_setting(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_normalise_setting(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _check_replicas(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    # For a union, pydantic reports one error for each of its members.
    try:
        return check(value)
    except ValidationError:
        allowed = f"it should be an integer from 1 to {MAX_REPLICAS}, or {AUTO}"
        raise PydanticCustomError("replicas", "{allowed}", {"allowed": allowed}) from None


NonEmptyText = Annotated[str, StringConstraints(min_length=1, strict=True)]
Size = Annotated[NonEmptyText, AfterValidator(_check_size), Named("a size, such as 64GB")]
Retry = Annotated[NonEmptyText, AfterValidator(_check_retry), Named("failed or failed:CLASS")]
QualityFlag = Annotated[NonEmptyText, AfterValidator(_check_quality_flag)]
Producer = Annotated[NonEmptyText, AfterValidator(_check_producer)]
Settings = Annotated[
    dict[NonEmptyText, Any], AfterValidator(_normalise_settings), Named("a mapping of names to values")
]
Duration = Annotated[NonEmptyText, AfterValidator(_check_duration), Named("a duration, such as 30s or 10m")]
Failures = Annotated[
    int | str, BeforeValidator(_check_failures), Named("a number of rows, or a share such as 5%")
]
WatchdogSeconds = Annotated[
    float, Field(gt=0, le=30 * 86_400, strict=True), Named("a number of seconds, up to 30 days")
]
Degree = Annotated[int, Field(ge=1, le=MAX_DEGREE, strict=True)]
Replicas = Annotated[
    Annotated[int, Field(ge=1, le=MAX_REPLICAS, strict=True)] | Literal["auto"],
    WrapValidator(_check_replicas),
]
DeviceChoice = Literal["auto", "cpu", "ascend"]
Format = Literal["mp4", "gif", "png", "npy"]
Task = Literal["text-to-video", "image-to-video", "video-to-video"]
