"""Degrees of gangs."""

from __future__ import annotations

import pytest

from tests.spec.examples import MINIMAL
from vidgen_dist.errors import Refused
from vidgen_dist.spec import AUTO, nearest_degrees, parse_spec, spec_from_flags


@pytest.mark.parametrize(
    ("gang", "given", "nearest"),
    [
        (8, (2, 2, 1), (4, 2, 1)),
        (8, (1, 1, 1), (8, 1, 1)),
        (4, (6, 1, 2), (2, 1, 2)),
        (7, (1, 1, 2), (7, 1, 1)),
        (1, (4, 2, 2), (1, 1, 1)),
        (12, (1, 4, 2), (1, 6, 2)),
    ],
)
def test_nearest_degrees(gang: int, given: tuple[int, int, int], nearest: tuple[int, int, int]) -> None:
    assert nearest_degrees(gang, *given) == nearest


def test_auto_stands_alone() -> None:
    flags = {**MINIMAL, "topology.replicas": "auto"}
    spec = spec_from_flags(flags)
    assert spec.topology.replicas == AUTO
    assert parse_spec(spec.to_yaml(), "again.yaml") == spec
    for key in ("topology.ulysses", "topology.ring", "topology.cfg", "topology.gang"):
        with pytest.raises(Refused, match=r"command line: topology\.replicas: auto chooses the gang as well"):
            spec_from_flags({**flags, key: 2})
