"""Writes the run files of `jobs/`: what `vidgen init --brief` writes, with the arguments of MindONE's guide
or of the model's card.

    python -m tests.jobs.make_run_files

Published configs come from `tests/planner/published.py`, so that nothing is downloaded.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.planner import published
from vidgen_dist.families.checkpoints import with_scheduler
from vidgen_dist.families.rules import load_rules
from vidgen_dist.preflight.new_run_file import describe_video, run_file_of
from vidgen_dist.spec import spec_from_flags

JOBS = Path(__file__).parents[2] / "jobs"

_T2V, _I2V, _V2V = "text-to-video", "image-to-video", "video-to-video"

_USUAL = {"topology.device": "ascend", "topology.replicas": 8}
_DYNAMIC = {"sampling.use_dynamic_cfg": True}
_ANIMATEDIFF = {
    "model.adapter": "guoyww/animatediff-motion-adapter-v1-5-2",
    "model.dtype": "float16",
    "model.scheduler": {
        "_class_name": "DDIMScheduler",
        "clip_sample": False,
        "timestep_spacing": "linspace",
        "beta_schedule": "linear",
        "steps_offset": 1,
    },
    "output.format": "gif",
    "sampling.negative_prompt": "bad quality, worse quality, low resolution",
}
_SVD = {"model.variant": "fp16", "model.dtype": "float16", "sampling.decode_chunk_size": 8}


@dataclass(frozen=True)
class Job:
    """A run file.

    Args:
        model: A published checkpoint.
        task: Its task in it.
        options: Dotted keys of a spec and values, where they are not the checkpoint's defaults.
        notes: What a person should know, in lines.
    """

    model: str
    task: str
    options: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


RUN_FILES: Mapping[str, Job] = {
    "cogvideox-2b": Job(
        "zai-org/CogVideoX-2b",
        _T2V,
        {"model.dtype": "float16"},
        ("The weights are published in float16, and the model card renders in it.",),
    ),
    "cogvideox-5b": Job("zai-org/CogVideoX-5b", _T2V, {"model.dtype": "bfloat16", **_DYNAMIC}),
    "cogvideox-5b-i2v": Job("zai-org/CogVideoX-5b-I2V", _I2V, {"model.dtype": "bfloat16", **_DYNAMIC}),
    "cogvideox-5b-v2v": Job("zai-org/CogVideoX-5b", _V2V, {"model.dtype": "bfloat16", **_DYNAMIC}),
    "cogvideox1.5-5b": Job("zai-org/CogVideoX1.5-5B", _T2V, {"model.dtype": "bfloat16", **_DYNAMIC}),
    "cogvideox1.5-5b-i2v": Job(
        "zai-org/CogVideoX1.5-5B-I2V",
        _I2V,
        {"model.dtype": "bfloat16", "sampling.num_frames": 81, **_DYNAMIC},
    ),
    "hunyuanvideo": Job(
        "hunyuanvideo-community/HunyuanVideo",
        _T2V,
        {
            "model.dtype": "bfloat16",
            "sampling.height": 320,
            "sampling.width": 512,
            "sampling.num_frames": 61,
            "sampling.num_inference_steps": 30,
        },
        ("The guide's size; the model card's is 129 frames of 1280x720, with 50 steps.",),
    ),
    "ltx": Job("Lightricks/LTX-Video", _T2V, {"model.dtype": "bfloat16", "sampling.height": 480}),
    "ltx-0.9.1-i2v": Job(
        "a-r-r-o-w/LTX-Video-0.9.1-diffusers",
        _I2V,
        {
            "model.dtype": "bfloat16",
            "sampling.height": 480,
            "sampling.decode_timestep": 0.05,
            "sampling.decode_noise_scale": 0.025,
        },
        ("The decoder does the last denoising step.",),
    ),
    "mochi": Job(
        "genmo/mochi-1-preview",
        _T2V,
        {"model.variant": "bf16", "model.dtype": "bfloat16", "sampling.num_frames": 84},
        ("84 frames, the guide's number, are made 79; ask for 85 to get 85.",),
    ),
    "animatediff": Job(
        "emilianJR/epiCRealism",
        _T2V,
        _ANIMATEDIFF,
        ("The keys under `scheduler` override the checkpoint's.",),
    ),
    "stable-diffusion-v1-5": Job(
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        _T2V,
        _ANIMATEDIFF,
        ("AnimateDiff with the model that its adapters were trained on.",),
    ),
    "stable-video-diffusion": Job(
        "stabilityai/stable-video-diffusion-img2vid-xt",
        _I2V,
        _SVD,
        ("The model is told `fps`, a column or a key under `sampling`; `output.fps` is only for the file.",),
    ),
    "stable-video-diffusion-xt-1-1": Job(
        "stabilityai/stable-video-diffusion-img2vid-xt-1-1",
        _I2V,
        {**_SVD, "output.fps": 6.0, "sampling.fps": 6.0},
        ("Trained for 6 frames per second and `motion_bucket_id` 127. The hub asks to accept its licence.",),
    ),
    "stable-video-diffusion-14": Job(
        "stabilityai/stable-video-diffusion-img2vid",
        _I2V,
        {**_SVD, "sampling.num_frames": 25},
        ("25 frames as in the guide; the model was trained for 14.",),
    ),
    "i2vgen-xl": Job(
        "ali-vilab/i2vgen-xl",
        _I2V,
        {
            "model.variant": "fp16",
            "model.dtype": "float16",
            "output.format": "gif",
            "sampling.height": 352,
            "sampling.width": 640,
            "sampling.guidance_scale": 1.0,
        },
        ("As in the guide: half of the model's size, without guidance, as a gif.",),
    ),
}
"""The run files by name."""


def text_of(name: str) -> str:
    """What a run file has to contain."""
    job = RUN_FILES[name]
    options = {
        "model.id": job.model,
        "model.task": job.task,
        "manifest.uri": f"jobs/samples/{job.task}.parquet",
        "output.uri": f"out/{name}",
        **_USUAL,
        **job.options,
    }
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = published.checkpoint(Path(folder), published.NAMES[job.model])
        scheduler = job.options.get("model.scheduler")
        if scheduler is not None:
            checkpoint = with_scheduler(checkpoint, scheduler)
        rules = load_rules(checkpoint, job.task)
        video = describe_video(rules, spec_from_flags(options))
        title = [
            f"{job.model}, {job.task}: {video}.",
            *job.notes,
            "",
            f"  vidgen plan jobs/{name}.yaml",
            f"  vidgen render jobs/{name}.yaml",
            "",
            "`vidgen init MODEL` writes such a file with all options.",
        ]
        return run_file_of(checkpoint, rules, options, title, brief=True)


def main() -> None:
    """Write all of them."""
    for name in RUN_FILES:
        (JOBS / f"{name}.yaml").write_text(text_of(name), encoding="utf-8")


if __name__ == "__main__":
    main()
