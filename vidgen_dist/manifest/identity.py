"""Which row is which: the id that it gives itself, or a digest of its request's fields."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, cast

from vidgen_dist.kinds import is_utf8


def usable_id(value: str | int | None) -> str | None:
    """The id that a row gives itself, if it can be one."""
    return str(value) if value not in (None, "") and is_utf8(str(value)) else None


def row_digest(values: Mapping[str, Any]) -> str:
    """32 hex digits that stand for a row without an id: the same for the same fields that are not null."""
    return cast(str, new_digest(digest_text(values).encode()).hexdigest())


def digest_text(values: Mapping[str, Any]) -> str:
    """What a row's digest is taken of: JSON of its fields that are not null, sorted."""
    plain = {name: plain_value(value) for name, value in values.items() if value is not None}
    return json.dumps(plain, sort_keys=True, separators=(",", ":"))


def new_digest(data: bytes) -> Any:
    """The hash that digests are made with, of some data; more may be added to it."""
    return hashlib.blake2b(data, digest_size=16)


def plain_value(value: Any) -> Any:
    """A field's value as JSON has it in `digest_text`."""
    if isinstance(value, bytes):
        return {"sha256": hashlib.sha256(value).hexdigest()}
    if isinstance(value, float) and value.is_integer():
        # A column turns to floats when one of its values goes missing: 49.0 is the 49 that it was.
        return int(value)
    if isinstance(value, list):
        return [plain_value(each) for each in value]
    if isinstance(value, dict):
        return {name: plain_value(each) for name, each in value.items()}
    return value
