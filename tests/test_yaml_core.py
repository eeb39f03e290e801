"""Numbers are read as in YAML 1.2."""

from __future__ import annotations

import math
from typing import Any

import pytest
import yaml

from vidgen_dist.yaml_core import Loader, read_value, write


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e3", 1000.0),
        ("1e+06", 1e6),
        ("-.5E1", -5.0),
        ("12", 12),
        ("0123", 123),
        ("+0o17", "+0o17"),
        ("0o17", 15),
        ("0x1F", 31),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        (".inf", math.inf),
        ("1.", 1.0),
        ("1e", "1e"),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_numbers_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    assert read_value(text) == value
    assert type(read_value(text)) is type(value)
    # A text is read back as one by either version.
    written = write({"is": text})
    assert yaml.load(written, Loader) == yaml.safe_load(written) == {"is": text}
