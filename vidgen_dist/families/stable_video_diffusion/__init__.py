"""Stable Video Diffusion: animates an image (Blattmann et al. 2023, arXiv:2311.15127)."""

from __future__ import annotations

from vidgen_dist.families.common.components import CLIP_IMAGE_PROCESSORS, CLIP_VISION, EULER
from vidgen_dist.families.common.tasks import IMAGE_TO_VIDEO
from vidgen_dist.families.family import Component, Family, Lazy, ModelClass, PipelineClass
from vidgen_dist.families.stable_video_diffusion.config import (
    StableVideoDiffusionConfigs,
    UNetConfig,
    VaeConfig,
)
from vidgen_dist.families.stable_video_diffusion.rules import FIELDS, task_rules

FAMILY = Family(
    name="Stable Video Diffusion",
    key="stable_video_diffusion",
    pipelines=(
        PipelineClass(
            "StableVideoDiffusionPipeline",
            IMAGE_TO_VIDEO,
            Lazy(f"{__name__}.pipeline:StableVideoDiffusionPipeline"),
        ),
    ),
    components=(
        Component("feature_extractor", CLIP_IMAGE_PROCESSORS),
        Component("image_encoder", (CLIP_VISION,)),
        Component(
            "unet", (ModelClass(UNetConfig, Lazy(f"{__name__}.unet:UNetSpatioTemporalConditionModel")),)
        ),
        Component(
            "vae", (ModelClass(VaeConfig, Lazy(f"{__name__}.autoencoder:AutoencoderKLTemporalDecoder")),)
        ),
        Component("scheduler", (EULER,)),
    ),
    configs=StableVideoDiffusionConfigs,
    rules=task_rules,
    required_columns=("image",),
    fields=FIELDS,
    costs=Lazy(f"{__name__}.costs:COSTS"),
    denoiser="unet",
    ring=False,
    published=(
        "stabilityai/stable-video-diffusion-img2vid",
        "stabilityai/stable-video-diffusion-img2vid-xt",
        "stabilityai/stable-video-diffusion-img2vid-xt-1-1",
    ),
)
