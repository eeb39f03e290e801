"""What checkpoints take, as a person reads it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests import references
from tests.planner import published
from vidgen_dist.errors import Refused
from vidgen_dist.families import FAMILIES
from vidgen_dist.families.checkpoints import open_model_checkpoint
from vidgen_dist.families.rules import load_rules
from vidgen_dist.families.taken import FrameCounts, Side, taken_fields, taken_sizes

ANY = "a multiple of {}"
SIZES = [
    ("5b", ANY.format(16), ANY.format(16), "8k or 8k + 1; other numbers are changed to one of these"),
    ("5b-i2v", "only 480", "only 720", "8k or 8k + 1; other numbers are changed to one of these"),
    (
        "1.5-5b",
        "a multiple of 16 up to 768",
        "a multiple of 16 up to 1360",
        "8k or 8k + 1; other numbers are changed to one of these",
    ),
    ("hunyuan-video", ANY.format(16), ANY.format(16), "4k + 1; other numbers are changed to one of these"),
    ("ltx-0.9.0", ANY.format(32), ANY.format(32), "8k + 1; other numbers are changed to one of these"),
    ("mochi", ANY.format(16), ANY.format(16), "6k + 1; other numbers are changed to one of these"),
    ("animatediff", ANY.format(8), ANY.format(8), "any number up to 32"),
    ("stable-video-diffusion", ANY.format(8), ANY.format(8), "any number"),
]


@pytest.mark.parametrize(("name", "height", "width", "frames"), SIZES, ids=[case[0] for case in SIZES])
def test_sizes_of_published_checkpoints(
    name: str, height: str, width: str, frames: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        sizes = taken_sizes(load_rules(published.checkpoint(tmp_path, name)))
    assert (str(sizes.height), str(sizes.width), str(sizes.num_frames)) == (height, width, frames)
    assert not caplog.records, "asking is not rendering: nobody is warned"


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.key)
def test_what_is_told_is_so(family) -> None:
    checkpoint = open_model_checkpoint(references.case(references.cases(family.key)[0], family.key).model)
    for task in load_rules(checkpoint).tasks:
        rules = load_rules(checkpoint, task)
        sizes = taken_sizes(rules)
        assert sizes.height is not None
        rules.resolve_defaults({"height": sizes.height.smallest})
        with pytest.raises(Refused, match="height"):
            rules.resolve_defaults({"height": sizes.height.smallest + 1})
        assert sizes.num_frames is not None
        for number in sizes.num_frames.exact[-3:]:
            assert rules.of_task.made_frames(number) == number
            rules.resolve_defaults({"num_frames": number})
        if sizes.num_frames.largest is not None:
            with pytest.raises(Refused, match="num_frames"):
                rules.resolve_defaults({"num_frames": sizes.num_frames.largest + 1})


def test_fields_are_those_of_the_rules() -> None:
    rules = load_rules(open_model_checkpoint(references.case("0.9.1-i2v", "ltx").model), "image-to-video")
    fields = {taken.name: taken for taken in taken_fields(rules)}
    assert list(fields)[:2] == ["prompt", "image"]
    assert fields["prompt"].required
    assert fields.keys() == rules.fields - {"id", "seed", "lora", "lora_scale"}
    assert (fields["decode_timestep"].default, fields["decode_timestep"].takes) == (0.0, "number, 0 to 1")
    assert fields["height"].takes == "a multiple of 32"


def test_odd_ranges_in_words() -> None:
    assert str(Side(8, 64, 128)) == "a multiple of 8 from 64 up to 128"
    assert str(FrameCounts((1, 2, 3, 5, 8, 13, 21, 34, 55), 60, rounds=False)) == (
        "1, 2, 3, 5, 8, 13, 21, 34, … up to 60"
    )
