"""LoRAs of a run: texts and mappings."""

from __future__ import annotations

from typing import Any

import pytest

from vidgen_dist.errors import Refused
from vidgen_dist.spec import LoraOptions, parse_spec, spec_from_flags

NEEDED = {"model.id": "org/model", "manifest.uri": "m.parquet", "output.uri": "out"}


@pytest.mark.parametrize(
    ("text", "place", "scale"),
    [
        ("org/style", "org/style", 1.0),
        ("org/style:0.8", "org/style", 0.8),
        ("./a.safetensors:-1", "./a.safetensors", -1.0),
        ("s3://bucket/a.safetensors", "s3://bucket/a.safetensors", 1.0),
        ("s3://bucket/a.safetensors:1e-1", "s3://bucket/a.safetensors", 0.1),
        ("/a:b/c.safetensors", "/a:b/c.safetensors", 1.0),
        ("/a:b", "/a:b", 1.0),
        ("org/style:nan", "org/style:nan", 1.0),
    ],
)
def test_the_number_behind_the_last_colon_is_the_scale(text: str, place: str, scale: float) -> None:
    assert LoraOptions.model_validate(text) == LoraOptions(id=place, scale=scale)


def test_texts_and_mappings_come_back_as_they_went() -> None:
    given: list[Any] = ["org/style:0.8", {"id": "a.safetensors", "scale": -0.5}]
    given.append({"id": "org/b", "revision": "v1", "weight_name": "b.safetensors"})
    spec = spec_from_flags({**NEEDED, "model.loras": given})
    assert spec.model.loras == (
        LoraOptions(id="org/style", scale=0.8),
        LoraOptions(id="a.safetensors", scale=-0.5),
        LoraOptions(id="org/b", revision="v1", weight_name="b.safetensors"),
    )
    assert parse_spec(spec.to_yaml(), "run.yaml") == spec


@pytest.mark.parametrize(
    ("loras", "told"),
    [
        ([{"scale": 1}], "model.loras.0.id is missing"),
        ([{"id": "a", "scale": "much"}], "model.loras.0.scale: 'much' is not allowed"),
        ([{"id": "a", "scale": float("inf")}], "model.loras.0.scale"),
        (["a", {"id": "b", "wieght_name": "c"}], "did you mean model.loras.1.weight_name"),
        ("org/style", "model.loras: 'org/style' is not allowed; it should be a list"),
        ([""], "model.loras.0.id"),
    ],
)
def test_what_is_wrong_is_named(loras: Any, told: str) -> None:
    with pytest.raises(Refused, match=told):
        spec_from_flags({**NEEDED, "model.loras": loras})
