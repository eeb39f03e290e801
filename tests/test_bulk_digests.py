"""Hashes of many texts, and JSON of many rows."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidgen_dist.bulk_digests import json_template, text_hashes

TEXTS = st.lists(st.text(max_size=40), max_size=30)


def one_by_one(texts: list[str]) -> list[list[int]]:
    return [text_hashes(pa.array([text])).tolist()[0] for text in texts]


@given(TEXTS, st.integers(0, 5), st.sampled_from([pa.string(), pa.large_string()]))
def test_a_hash_depends_on_the_text_alone(texts: list[str], start: int, kind: pa.DataType) -> None:
    array = pa.array(["before"] * start + texts + ["behind"], kind).slice(start, len(texts))
    assert text_hashes(array).tolist() == one_by_one(texts)


@given(st.sets(st.text(max_size=40), min_size=2))
def test_other_texts_have_other_hashes_in_either_half(texts: set[str]) -> None:
    hashes = text_hashes(pa.array(sorted(texts)))
    assert all(len(np.unique(hashes[:, half])) == len(texts) for half in (0, 1))


def test_texts_that_differ_in_zeros_and_length_alone() -> None:
    texts = ["\0" * n for n in range(40)] + ["a" + "\0" * n for n in range(40)]
    assert len(np.unique(text_hashes(pa.array(texts)), axis=0)) == len(texts)


def test_bits_are_as_of_chance() -> None:
    hashes = text_hashes(pa.array([f"row-{n:09d}" for n in range(200_000)]))
    for half in hashes.T:
        # Half of all bits are set, and every bucket of 4,096 has its share: 48.8, sigma 7.
        bits = np.unpackbits(half.copy().view(np.uint8).reshape(-1, 8), axis=1).mean(0)
        assert abs(bits - 0.5).max() < 0.006
        for shift in (52, 0):
            counts = np.bincount((half >> np.uint64(shift)).astype(np.int64) & 4095, minlength=4096)
            assert counts.min() > 14
            assert counts.max() < 90


def test_a_very_long_text_among_short_ones() -> None:
    texts = ["a", "x" * 100_003, "", "b" * 9]
    assert text_hashes(pa.array(texts)).tolist() == one_by_one(texts)


def test_hashes_are_the_same_in_another_process() -> None:
    code = (
        "import pyarrow as pa; from vidgen_dist.bulk_digests import text_hashes; "
        "print(text_hashes(pa.array(['a fox', 'høst'])).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(text_hashes(pa.array(["a fox", "høst"])).tolist())


SEEDS = st.none() | st.integers(0, 2**63 - 1)


@given(
    rows=st.lists(st.tuples(st.none() | st.text(), SEEDS), min_size=1, max_size=5),
    other=st.text() | st.sampled_from(['"prompt": "x", "seed": 1', '\\"seed": 0']),
    separators=st.sampled_from([(", ", ": "), (",", ":")]),
    behind=st.booleans(),
    nulls=st.booleans(),
)
def test_a_template_digests_as_each_text_by_itself(
    rows: list[tuple[str | None, int | None]],
    other: str,
    separators: tuple[str, str],
    behind: bool,
    nulls: bool,
) -> None:
    def text(prompt: str | None, seed: int | None) -> str:
        fields = {"negative_prompt": other, "prompt": prompt, "media": {"prompt2": other}, "seed": seed}
        if not nulls:
            fields = {name: value for name, value in fields.items() if value is not None}
        fields |= {"width": 720} if behind else {}
        return json.dumps(fields, sort_keys=True, separators=separators)

    prompt, seed = rows[0]
    alike = [row for row in rows if [value is None for value in row] == [prompt is None, seed is None]]
    template = json_template(text(prompt, seed), prompt, seed, separators[1])
    columns = zip(*alike, strict=True)
    prompts, seeds = (None if None in column else column for column in columns)
    digests = template.digests(hashlib.sha256, len(alike), prompts, seeds)
    assert digests == [hashlib.sha256(text(*row).encode()).hexdigest() for row in alike]


def test_what_a_template_has_is_to_be_given() -> None:
    template = json_template('{"prompt": "a"}', "a", None, ": ")
    with pytest.raises(ValueError, match="prompts and seeds must be given"):
        template.digests(hashlib.sha256, 1, None, None)
    with pytest.raises(ValueError, match="prompts and seeds must be given"):
        template.digests(hashlib.sha256, 1, ["a"], [1])
    with pytest.raises(ValueError, match="zip"):
        template.digests(hashlib.sha256, 2, ["a"], None)


@pytest.mark.parametrize("seed", [2, 12, 123])
def test_a_text_that_is_no_such_row(seed: int) -> None:
    text = json.dumps({"prompt": "a", "seed": 1})
    with pytest.raises(ValueError, match="no such"):
        json_template(text, "a", seed, ": ")
    with pytest.raises(ValueError, match="no such"):
        json_template(text, "b", 1, ": ")
