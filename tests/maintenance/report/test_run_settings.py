"""Settings of two runs that differ are named; where things are is not."""

from __future__ import annotations

from typing import Any

from vidgen_dist.maintenance.report.pairs import Difference
from vidgen_dist.maintenance.report.run_settings import differing_settings
from vidgen_dist.spec import RunSpec, spec_from_flags

BASE = {"model.id": "a/model", "model.revision": "r1", "manifest.uri": "m.parquet", "output.uri": "out"}


def spec(**values: Any) -> RunSpec:
    return spec_from_flags(BASE | {name.replace("__", "."): value for name, value in values.items()})


def test_the_same_settings() -> None:
    assert differing_settings(spec(), spec()) == []
    elsewhere = spec(output__uri="/home/somebody/x", manifest__uri="s3://b/m", model__prompt_cache="/home/c")
    assert differing_settings(spec(), elsewhere) == []


def test_each_key_stands_for_itself() -> None:
    one = spec(sampling__guidance_scale=6, sampling__num_frames=49, topology__ulysses=2, topology__gang=2)
    other = spec(sampling__num_frames=81, model__dtype="float32", model__vae_tiling=True, seed=3)
    assert differing_settings(one, other) == [
        Difference("model.dtype", "–", "float32"),
        Difference("model.vae_tiling", "off", "on"),
        Difference("topology.ulysses", "2", "1"),
        Difference("topology.gang", "2", "–"),
        Difference("sampling.guidance_scale", "6", "–"),
        Difference("sampling.num_frames", "49", "81"),
        Difference("seed", "0", "3"),
    ]


def test_nobodys_folders_are_named() -> None:
    lora = "/home/somebody/loras/ink.safetensors"
    local = {"model__id": "/home/somebody/checkpoint", "model__revision": None}
    one = spec(**local, model__loras=[{"id": lora, "scale": 0.8}], sampling__image="/home/somebody/a.png")
    other = spec(**local, model__loras=[{"id": lora}], sampling__image="/home/somebody/b/a.png")
    assert differing_settings(one, other) == [
        Difference("model.loras", "ink.safetensors × 0.8", "ink.safetensors"),
        Difference("sampling.image", "a.png", "a.png (another one)"),
    ]
