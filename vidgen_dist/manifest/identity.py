"""The identity of a row: the id in its column, or a digest of its request's fields."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, cast

from vidgen_dist.kinds import is_utf8


def usable_id(value: str | int | None) -> str | None:
    """The row's own id as text; None if it has none or the value cannot be an id."""
    return str(value) if value not in (None, "") and is_utf8(str(value)) else None


def row_digest(values: Mapping[str, Any]) -> str:
    """32 hex digits that identify a row without an id. Equal non-null fields give equal digits."""
    return cast(str, new_digest(digest_text(values).encode()).hexdigest())


def digest_text(values: Mapping[str, Any]) -> str:
    """The text that a row's digest is made from: sorted JSON of its fields that are not null."""
    plain = {name: plain_value(value) for name, value in values.items() if value is not None}
    return json.dumps(plain, sort_keys=True, separators=(",", ":"))


def new_digest(data: bytes) -> Any:
    """The hash object that digests are made with, started with some data."""
    return hashlib.blake2b(data, digest_size=16)


def plain_value(value: Any) -> Any:
    """A field's value as `digest_text` writes it in JSON."""
    if isinstance(value, bytes):
        return {"sha256": hashlib.sha256(value).hexdigest()}
    if isinstance(value, float) and value.is_integer():
        # A column becomes floats when one of its values goes missing: 49.0 was 49 before.
        return int(value)
    if isinstance(value, list):
        return [plain_value(each) for each in value]
    if isinstance(value, dict):
        return {name: plain_value(each) for name, each in value.items()}
    return value
