"""RenderRequest takes what can be rendered and refuses the rest by field, value and what is allowed."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidgen_dist.families import OUR_FIELDS
from vidgen_dist.request import FIELDS, MAX_SEED, RenderRequest, RequestError

MEDIA = ("image", "video")
WHOLE = ("height", "width", "num_frames", "num_inference_steps", "max_sequence_length")


def refused(**values: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        RenderRequest(**{"prompt": "a cat", **values}).parsed(OUR_FIELDS)
    return caught.value


def test_a_prompt_is_enough_and_all_else_is_the_models() -> None:
    request = RenderRequest(prompt="a cat")
    assert {name: getattr(request, name) for name in FIELDS if getattr(request, name) is not None} == {
        "prompt": "a cat"
    }
    assert request.values() == {"prompt": "a cat"}
    assert {name for name, field in FIELDS.items() if field.kind.has_sources} == set(MEDIA)
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.prompt = "a dog"  # type: ignore[misc]
    with pytest.raises(TypeError):
        RenderRequest("a cat")  # type: ignore[call-arg]


@pytest.mark.parametrize("field", ["prompt", "id", "negative_prompt"])
@pytest.mark.parametrize("value", [1, b"text", ["text"], "\ud800"])
def test_texts(field: str, value: Any) -> None:
    error = refused(**{field: value})
    assert (error.field, error.value) == (field, value)
    assert error.allowed.startswith("a text")


def test_a_prompt_may_be_empty_and_missing_and_an_id_not_empty() -> None:
    assert RenderRequest(prompt="", negative_prompt="").prompt == ""
    assert RenderRequest().prompt is None
    assert refused(id="").field == "id"


@pytest.mark.parametrize("field", WHOLE)
@pytest.mark.parametrize("value", [-1, 0, 2**31, 4.5, float("nan"), float("inf"), 1e300, "49", True, [49]])
def test_whole_numbers_above_zero(field: str, value: Any) -> None:
    error = refused(**{field: value})
    assert error.field == field
    assert error.allowed == "a whole number from 1 to 2147483647"


@pytest.mark.parametrize("field", WHOLE)
@pytest.mark.parametrize("value", [49, 49.0, np.int16(49), np.float32(49)])
def test_whole_numbers_of_any_type(field: str, value: Any) -> None:
    stored = getattr(RenderRequest(prompt="a cat", **{field: value}), field)
    assert (stored, type(stored)) == (49, int)


@pytest.mark.parametrize("value", [-1, MAX_SEED + 1, 0.5, 1e300, True, "1"])
def test_a_seed_out_of_range(value: Any) -> None:
    error = refused(seed=value)
    assert str(error) == f"seed: {value!r} is not allowed; a whole number from 0 to {MAX_SEED}"


def test_the_ends_of_the_seeds() -> None:
    assert RenderRequest(prompt="a cat", seed=0).seed == 0
    assert RenderRequest(prompt="a cat", seed=MAX_SEED).seed == MAX_SEED
    assert RenderRequest(prompt="a cat", seed=2.0**53).seed == 2**53


def test_a_seed_that_a_float_has_rounded() -> None:
    assert "write an integer" in refused(seed=float(2**60)).allowed


@pytest.mark.parametrize("field", MEDIA)
@pytest.mark.parametrize("value", ["", b"", 5, 0.5, True])
def test_media_that_cannot_be(field: str, value: Any) -> None:
    assert refused(**{field: value}).field == field


RANGES = [
    ("guidance_scale", [0, 1, 6.5], [-0.1, 1e7], "a number from 0 to 1e+06"),
    ("true_cfg_scale", [0, 1, 6.5], [-0.1, 1e7], "a number from 0 to 1e+06"),
    ("guidance_rescale", [0, 0.7, 1], [-0.1, 1.1], "a number from 0 to 1"),
    ("eta", [0, 0.5, 1], [-0.1, 1.1], "a number from 0 to 1"),
    ("decode_timestep", [0, 0.05, 1], [-0.1, 1.1], "a number from 0 to 1"),
    ("decode_noise_scale", [0, 0.025, 1], [-0.1, 1.1], "a number from 0 to 1"),
    ("frame_rate", [0.01, 25, 1000], [0, -24, 1001], "a number from 0.01 to 1000"),
    ("strength", [1e-9, 0.8, 1], [0, -1, 1.1], "a number above 0 up to 1"),
    ("fps", [0.01, 0.5, 8, 1000], [0, 0.009, -8, 1001], "a number from 0.01 to 1000"),
]


@pytest.mark.parametrize(("field", "good", "bad", "allowed"), RANGES)
def test_numbers_in_a_range(field: str, good: list[float], bad: list[float], allowed: str) -> None:
    for value in good:
        stored = RenderRequest(prompt="a cat", **{field: value}).parsed(OUR_FIELDS).values()[field]
        assert (stored, type(stored)) == (value, float)
    for value in (*bad, float("nan"), float("inf"), "1", True, [1]):
        error = refused(**{field: value})
        assert (error.field, error.allowed) == (field, allowed)


@pytest.mark.parametrize("value", [0, 1, "true", "", [True]])
def test_a_flag_is_true_or_false(value: Any) -> None:
    assert refused(use_dynamic_cfg=value).allowed == "true or false"
    assert RenderRequest(prompt="a cat", use_dynamic_cfg=False).use_dynamic_cfg is False


def test_errors_cross_process_borders_and_stay_short() -> None:
    error = refused(id=["x" * 10_000])
    assert len(str(error)) < 300
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is RequestError
    assert (str(again), again.field, again.value, again.allowed) == (
        str(error),
        error.field,
        error.value,
        error.allowed,
    )


anything = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=5)
)


@given(st.dictionaries(st.sampled_from([name for name in FIELDS if name not in MEDIA]), anything))
def test_any_value_is_taken_or_refused_by_its_field(values: dict[str, Any]) -> None:
    try:
        request, at_fault = RenderRequest(**{"prompt": "a cat", **values}), None
    except RequestError as error:
        request, at_fault = None, error.field
    assert at_fault is None or at_fault in values
    if request is not None:
        assert RenderRequest(**{name: getattr(request, name) for name in FIELDS}) == request
        assert pickle.loads(pickle.dumps(request)) == request
