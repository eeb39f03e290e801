"""Messages about values of a config that are not allowed."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

import pytest
from pydantic import Field
from pydantic.dataclasses import dataclass

from vidgen_dist.component_config import STRICT, AboveZero, Config, Items, Positive
from vidgen_dist.errors import Refused


@dataclass(frozen=True, config=STRICT)
class Toy(Config):
    NAME: ClassVar = "Toy"

    layers: Positive = 2
    scale: AboveZero = 1.0
    means: Items[float] | None = None
    share: Annotated[float, Field(ge=0, lt=1)] | None = None
    extra: dict[str, Any] | None = None


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("scale", 0, "0; allowed is a number above 0"),
        ("scale", "1", "'1'; allowed is a number above 0"),
        ("scale", math.inf, "inf; allowed is a finite number above 0"),
        ("share", -math.inf, "-inf; allowed is a finite number from 0 below 1 or null"),
        (
            "means",
            [0.5, math.nan],
            r"\[0.5, nan\]; allowed is a list, each a finite number \(one or more\) or null",
        ),
        ("layers", math.inf, "inf; allowed is a whole number from 1"),
        ("extra", [1], r"\[1\]; allowed is an object or null"),
        ("extra", False, "False; allowed is an object or null"),
    ],
)
def test_a_value_that_cannot_be(key: str, value: object, allowed: str) -> None:
    with pytest.raises(Refused, match=f"^config of Toy: {key} is {allowed}$"):
        Toy.read({key: value})


def test_each_key_has_a_line() -> None:
    with pytest.raises(Refused) as refused:
        Toy.read({"layers": 0, "scale": "x", "means": [math.inf, "x", None]})
    assert sorted(line.partition(" is ")[0] for line in str(refused.value).splitlines()) == [
        "config of Toy: layers",
        "config of Toy: means",
        "config of Toy: scale",
    ]
