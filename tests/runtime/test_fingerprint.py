"""What changes a fingerprint, and what does not."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from vidgen_dist.request import MAX_SEED, RenderRequest
from vidgen_dist.runtime.fingerprint import Identity, row_seed

IDENTITY = Identity(model="m", task="text-to-video", dtype="float32", format="mp4", crf=18)
REQUEST = RenderRequest(prompt="a fox", id="x", num_frames=9, guidance_scale=6.0, seed=1, fps=8.0)


def test_it_is_written_down() -> None:
    """A change of this digest makes every ledger that exists worthless."""
    assert (
        IDENTITY.fingerprint(REQUEST, {})
        == "d2c0b74fc57c542c9cfdd2b17e83a4aac14a02c0b7fba6698b75510dbbb7ad7a"
    )


def test_options_are_written_down() -> None:
    tiled = dataclasses.replace(IDENTITY, options={"vae_tiling": True})
    assert (
        tiled.fingerprint(REQUEST, {}) == "11fb7b4a40237181dbb375a3bcb1dda11e1312d2e8240a285379ef60a9798626"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"model": "n"},
        {"task": "image-to-video"},
        {"dtype": "bfloat16"},
        {"format": "gif"},
        {"crf": 19},
        {"options": {"vae_tiling": True}},
    ],
)
def test_what_decides_every_row(change: dict[str, Any]) -> None:
    other = dataclasses.replace(IDENTITY, **change)
    assert other.fingerprint(REQUEST, {}) != IDENTITY.fingerprint(REQUEST, {})


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "a Fox"},
        {"seed": 2},
        {"num_frames": 13},
        {"fps": 16.0},
        {"negative_prompt": ""},
        {"frame_rate": 24.0},
        {"guidance_rescale": 0.0},
        {"true_cfg_scale": 1.0},
    ],
)
def test_what_decides_one_row(change: dict[str, Any]) -> None:
    other = dataclasses.replace(REQUEST, **change)
    assert IDENTITY.fingerprint(other, {}) != IDENTITY.fingerprint(REQUEST, {})


def test_media_count_by_content_alone() -> None:
    here = dataclasses.replace(REQUEST, image="/here/fox.png")
    there = dataclasses.replace(REQUEST, image="s3://there/fox.png")
    assert IDENTITY.fingerprint(here, {"image": "d1"}) == IDENTITY.fingerprint(there, {"image": "d1"})
    assert IDENTITY.fingerprint(here, {"image": "d1"}) != IDENTITY.fingerprint(here, {"image": "d2"})


def test_the_id_is_no_pixel() -> None:
    other = dataclasses.replace(REQUEST, id="y")
    assert IDENTITY.fingerprint(other, {}) == IDENTITY.fingerprint(REQUEST, {})


def test_seeds_are_spread_and_stay() -> None:
    seeds = [row_seed(0, f"row-{i}") for i in range(1000)]
    assert len(set(seeds)) == 1000
    assert all(0 <= seed <= MAX_SEED for seed in seeds)
    assert min(seeds) < MAX_SEED // 4
    assert max(seeds) > MAX_SEED // 4 * 3
    assert seeds[0] == 7309761620656576491
    assert row_seed(1, "row-0") != seeds[0]
