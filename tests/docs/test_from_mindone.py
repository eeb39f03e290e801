"""Each example of MindONE's guide on the page asks for what the guide's script asks for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import fenced, read
from tests.planner import published
from vidgen_dist.families import OUR_FIELDS, known_fields
from vidgen_dist.families.rules import load_rules
from vidgen_dist.manifest import open_manifest
from vidgen_dist.manifest_build import build
from vidgen_dist.spec import parse_spec

PAGE = "docs/from-mindone.md"

# As the guide's scripts call the pipelines; what they leave out is not looked at.
CALLS: list[tuple[str, dict[str, dict[str, Any]]]] = [
    (
        "zai-org/CogVideoX-5b-I2V",
        {
            "ocean": {
                "num_inference_steps": 50,
                "num_frames": 49,
                "guidance_scale": 6,
                "seed": 42,
                "written_fps": 8,
            }
        },
    ),
    (
        "hunyuanvideo-community/HunyuanVideo",
        {
            "cat": {
                "prompt": "A cat walks on the grass, realistic",
                "height": 320,
                "width": 512,
                "num_frames": 61,
                "num_inference_steps": 30,
                "written_fps": 15,
            }
        },
    ),
    (
        "Lightricks/LTX-Video",
        {
            "window": {
                "width": 704,
                "height": 480,
                "num_frames": 161,
                "num_inference_steps": 50,
                "written_fps": 24,
            }
        },
    ),
    (
        "genmo/mochi-1-preview",
        {
            "chameleon": {
                "prompt": "Close-up of a chameleon's eye, with its scaly skin changing color. Ultra high "
                "resolution 4k.",
                "num_frames": 84,
                "written_fps": 30,
            }
        },
    ),
    (
        "stabilityai/stable-video-diffusion-img2vid-xt",
        {
            "rocket": {
                "height": 576,
                "width": 1024,
                "decode_chunk_size": 8,
                "num_frames": 5,
                "seed": 42,
                "fps": 7,
                "written_fps": 7,
            }
        },
    ),
    (
        "emilianJR/epiCRealism",
        {
            "rocket": {
                "prompt": "A space rocket with trails of smoke behind it launching into space from the "
                "desert, 4k, high resolution",
                "negative_prompt": "bad quality, worse quality, low resolution",
                "num_frames": 16,
                "guidance_scale": 7.5,
                "num_inference_steps": 50,
                "seed": 49,
                "written_fps": 10,
            },
            "sushi": {
                "prompt": "360 camera shot of a sushi roll in a restaurant",
                "negative_prompt": "Distorted, discontinuous, ugly, blurry, low resolution, motionless, "
                "static",
                "num_frames": 16,
                "guidance_scale": 7.5,
                "num_inference_steps": 50,
                "seed": 0,
                "written_fps": 10,
            },
        },
    ),
    (
        "stabilityai/stable-video-diffusion-img2vid",
        {"rocket": {"height": 576, "width": 1024, "decode_chunk_size": 8, "num_frames": 25, "seed": 42}},
    ),
    (
        "ali-vilab/i2vgen-xl",
        {
            "papers": {
                "prompt": "Papers were floating in the air on a table in the library",
                "negative_prompt": "Distorted, discontinuous, Ugly, blurry, low resolution, motionless, "
                "static, disfigured, disconnected limbs, Ugly faces, incomplete arms",
                "height": 352,
                "width": 640,
                "num_inference_steps": 50,
                "guidance_scale": 1.0,
                "is_guided": False,
                "seed": 0,
                "written_fps": 10,
            }
        },
    ),
]

RUN_FILES = fenced(PAGE, "yaml")
MANIFESTS = fenced(PAGE, "csv")


def test_every_example_is_on_the_page() -> None:
    assert [parse_spec(text, PAGE).model.id for text in RUN_FILES] == [model for model, _ in CALLS]
    # The last one has no run file of its own.
    assert len(MANIFESTS) == len(RUN_FILES) + 1


@pytest.mark.parametrize("text", MANIFESTS)
def test_columns_are_known(text: str) -> None:
    assert set(text.splitlines()[0].split(",")) <= set(OUR_FIELDS)


@pytest.mark.parametrize("number", range(len(CALLS)), ids=[model for model, _ in CALLS])
def test_an_example_asks_for_what_the_guide_asks_for(number: int, tmp_path: Path) -> None:
    model, rows = CALLS[number]
    spec = parse_spec(RUN_FILES[number], PAGE)
    (tmp_path / "rows.csv").write_text(MANIFESTS[number], encoding="utf-8")
    build([tmp_path / "rows.csv"], tmp_path / "manifest.parquet", fields=known_fields(), one_of=())
    published_as = {**published.NAMES, "stabilityai/stable-video-diffusion-img2vid": "stable-video-diffusion"}
    rules = load_rules(published.checkpoint(tmp_path / "model", published_as[model]), spec.model.task)
    rules.check_defaults(spec.sampling)
    found = {}
    defaults = {**spec.sampling, rules.of_task.file_fps: spec.output.fps}
    manifest = open_manifest(tmp_path / "manifest.parquet", fields=known_fields(), required=())
    for row in manifest.rows(defaults):
        found[row.id] = rules.resolve(row.request)
    assert found.keys() == rows.keys()
    for name, expected in rows.items():
        assert {key: getattr(found[name], key) for key in expected} == expected


def test_every_field_of_a_row_is_told_of() -> None:
    """Who comes from MindONE finds each argument that a family takes."""
    text = read(PAGE)
    for name in OUR_FIELDS:
        assert re.search(rf"`{name}`", text), name
