"""Fingerprints: what changes them, what does not, and that they stay as they are."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import pytest

from vidgen_dist.families import OUR_FIELDS
from vidgen_dist.manifest import row_seed
from vidgen_dist.output.fingerprint import Identity, PixelFields
from vidgen_dist.request import MAX_SEED, RenderRequest, sources_of

IDENTITY = Identity(
    model="m",
    task="text-to-video",
    dtype="float32",
    format="mp4",
    crf=18,
    pixel_fields=PixelFields(OUR_FIELDS),
)
REQUEST = RenderRequest(prompt="a fox", id="x", num_frames=9, guidance_scale=6.0, seed=1, fps=8.0)


WRITTEN_DOWN: list[tuple[dict[str, Any], str]] = [
    ({}, "aeeb0955c43a2a93d816a6446cf14ceed63d542ec98a154664d2c635c836c870"),
    ({"id": "y"}, "aeeb0955c43a2a93d816a6446cf14ceed63d542ec98a154664d2c635c836c870"),
    ({"negative_prompt": "dull"}, "b8e3ef08b5141d72fa2d1ce5860c6f837b8d26bac00de3c193161d9d273ae8f1"),
    ({"image": "/a.png"}, "016f78667711050a37906d527bef459c85cac233271856fa57c576feaee418b9"),
    ({"video": "/a.mp4"}, "cb7fdbecfb3c3e2cb2252d182ace0fa3fc052c5ee4642e60d9e9ddb5c2a535de"),
    ({"height": 480}, "eed15512ded6d1bb51f780be68d3b4a4437bb04d4af84ce3cbb3af133aeead75"),
    ({"width": 720}, "3d77938b2b3aa41f21e1aff8f009676189e9237587d9d33f66474834582867b9"),
    ({"num_frames": 49}, "f33965fbe05d8ed8dbc8aa2e8326e8c298ee337c4680c157bf026ac15a95b2c6"),
    ({"num_inference_steps": 50}, "8d7e089dafa548e3ee754487bf07426b81f504f9b9eee2f9cc728f3614eb29bc"),
    ({"guidance_scale": 6.5}, "f49e895a2db967de4373a85daef79f4055ab971dfa4bd80f426bdb2181bd9957"),
    ({"guidance_rescale": 0.7}, "06e472e3ad46e59bee4d973448b75ce17a053f2c23004ef91f4bddae2c183547"),
    ({"true_cfg_scale": 4.0}, "d2aaa7f962353f34478d884f273467f4442c7303d2254889539208041d1a7c50"),
    ({"use_dynamic_cfg": True}, "180b4642957e0901d6847c9e94d078b80a9f98c6e2562884a90d88bcccac3904"),
    ({"eta": 0.5}, "aba72d33c9aa4e5c067759589677840c7f994799745cb8852e2e4481c5f59cc7"),
    ({"strength": 0.8}, "41203a8ca2baf546da12bded0131886a79f8a20a1f35304a51806b794ad9265d"),
    ({"max_sequence_length": 226}, "7c62fcc891cb3ea555991e88d7f8c0462654bb3f3f3e2705f245116756dc0f27"),
    ({"frame_rate": 24.0}, "e660259395e698691a3c83b2dc9ab81898107a2d45abb1cd513f9b9983e90c33"),
    ({"decode_timestep": 0.05}, "4d519a3119e70991d956b48d5d6f75477b5aabf9a83bcce1f16269c0e31fce65"),
    ({"decode_noise_scale": 0.025}, "c6e7a629cb1cd4fa2595d17f44deaf515ee7016eaedf7d3d73ea1aaf3b6894c7"),
    ({"clip_skip": 2}, "e180db74298e2ec3ee45f5b4bae7a77623673dd99739cb6527e0e922dfc81791"),
    ({"decode_chunk_size": 8}, "ef759836d32edab2cdd44325d0188a6edc92c972f8e44472ab4c875e1c6cff9a"),
    ({"min_guidance_scale": 1.0}, "75fd8953399865ea29e0c9677665609314b732f4cd019b5d472e0efd8f1b9b2b"),
    ({"max_guidance_scale": 3.0}, "813f0f5f3595ec80275b917d8e19291e3775e109cdb825fc328d9a18f70db097"),
    ({"motion_bucket_id": 127}, "41353a373a496027701a070a9c56eeea0b52bc78bc8818d133edd774c526fe14"),
    ({"noise_aug_strength": 0.02}, "cb881da3fab5725fdb0e3eff3767bfc36445cfedd5930217944c11922f04ce6b"),
    ({"file_fps": 12.0}, "eb4ed3b378db53da3d2d0d93507bf71b9187246fda97a07785f95c8c271f971e"),
    ({"target_fps": 16}, "669caa8d63193ee5acacbee8d3da41b33f028cd93fccfe0f2ac46d6606ab1268"),
    ({"lora": ("org/a",)}, "5bce8ef0c8906d959af7a0630c5579a76656c45c646f6e09500c3dd0d8842c78"),
    ({"lora_scale": (0.5,)}, "3c3726152696639aea1169d137a63552360e11cb6ccb2ada9bb32063074cae1a"),
    ({"seed": 7}, "1fb7ccab5a10eda6e55b0d67144098855d40089f074b2623b072f20da8df353a"),
    ({"fps": 16.0}, "fa4d8c33099bf4f6247f3ab169bac29f2ccbbe6e8229778310c1438840155900"),
]
"""Fingerprints of "a fox" and one other field, as ledgers have them; the digest of media is "d"."""


@pytest.mark.parametrize(("used", "fingerprint"), WRITTEN_DOWN)
def test_fingerprints_stay_with_each_field_used_and_unused(used: dict[str, Any], fingerprint: str) -> None:
    request = RenderRequest(prompt="a fox", **used)
    media = dict.fromkeys(sources_of(request.values()), "d")
    assert IDENTITY.fingerprint(request, media) == fingerprint
    # A new field must be added here.
    assert {name for fields, _ in WRITTEN_DOWN for name in fields} == OUR_FIELDS.keys() - {"prompt"}


def test_the_fingerprint_of_all_fields_together_stays() -> None:
    used = {name: value for fields, _ in WRITTEN_DOWN for name, value in fields.items()}
    request = RenderRequest(prompt="a fox", **used)
    assert (
        IDENTITY.fingerprint(request, {"image": "d", "video": "e"})
        == "e937f88a7826cdc3b8cc909d6c11a72bff4ba4ecea49a9ca38491e4d5873727a"
    )


def test_the_fingerprint_of_usual_fields_stays() -> None:
    """If this digest changes, every existing ledger is worthless."""
    assert (
        IDENTITY.fingerprint(REQUEST, {})
        == "d2c0b74fc57c542c9cfdd2b17e83a4aac14a02c0b7fba6698b75510dbbb7ad7a"
    )


def test_the_fingerprint_with_options_stays() -> None:
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
def test_what_changes_the_fingerprint_of_every_row(change: dict[str, Any]) -> None:
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
def test_what_changes_the_fingerprint_of_one_row(change: dict[str, Any]) -> None:
    other = dataclasses.replace(REQUEST, **change)
    assert IDENTITY.fingerprint(other, {}) != IDENTITY.fingerprint(REQUEST, {})


@pytest.mark.parametrize("change", [{}, {"prompt": None}])
def test_a_template_gives_the_same_fingerprints(change: dict[str, Any]) -> None:
    requests = [
        dataclasses.replace(REQUEST, **{"prompt": f'{n} "é" \\', "seed": n, "id": f"row {n}", **change})
        for n in range(3)
    ]
    template = IDENTITY.template(requests[0])
    prompts = [request.prompt for request in requests if request.prompt is not None]
    digests = template.digests(hashlib.sha256, 3, prompts or None, range(3))
    assert digests == [IDENTITY.fingerprint(request, {}) for request in requests]
    assert len(set(digests)) == 3


def test_only_the_content_of_media_counts() -> None:
    here = dataclasses.replace(REQUEST, image="/here/fox.png")
    there = dataclasses.replace(REQUEST, image="s3://there/fox.png")
    assert IDENTITY.fingerprint(here, {"image": "d1"}) == IDENTITY.fingerprint(there, {"image": "d1"})
    assert IDENTITY.fingerprint(here, {"image": "d1"}) != IDENTITY.fingerprint(here, {"image": "d2"})


def test_the_id_does_not_count() -> None:
    other = dataclasses.replace(REQUEST, id="y")
    assert IDENTITY.fingerprint(other, {}) == IDENTITY.fingerprint(REQUEST, {})


def test_seeds_are_spread_and_stay_the_same() -> None:
    seeds = [row_seed(0, f"row-{i}") for i in range(1000)]
    assert len(set(seeds)) == 1000
    assert all(0 <= seed <= MAX_SEED for seed in seeds)
    assert min(seeds) < MAX_SEED // 4
    assert max(seeds) > MAX_SEED // 4 * 3
    assert seeds[0] == 7309761620656576491
    assert row_seed(1, "row-0") != seeds[0]
