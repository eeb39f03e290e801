"""The AnimateDiff family (Guo et al. 2023, arXiv:2307.04725): Stable Diffusion 1.5 with a motion adapter."""

from __future__ import annotations

from vidgen_dist.families.animatediff.config import (
    AnimateDiffConfigs,
    MotionAdapterConfig,
    UNet2DConditionConfig,
    UNetMotionConfig,
)
from vidgen_dist.families.animatediff.rules import FIELDS, task_rules
from vidgen_dist.families.common.components import (
    AUTOENCODER_KL,
    CLIP_TEXT,
    CLIP_TOKENIZERS,
    DDIM,
    DPM_SOLVER,
    EULER,
    EULER_ANCESTRAL,
    LCM,
    PNDM,
    UNIPC,
)
from vidgen_dist.families.common.tasks import TEXT_TO_VIDEO
from vidgen_dist.families.family import Component, ConfigClass, Family, Lazy, ModelClass, PipelineClass

_HERE = "vidgen_dist.families.animatediff"
_PIPELINE = Lazy(f"{_HERE}.pipeline:AnimateDiffPipeline")
_UNET = Lazy(f"{_HERE}.unet:UNetMotionModel")
_ADAPTER = "motion_adapter"

FAMILY = Family(
    name="AnimateDiff",
    key="animatediff",
    # A checkpoint for images, with an adapter; or one that contains its motion modules, as diffusers saves
    # it.
    pipelines=(
        PipelineClass("AnimateDiffPipeline", TEXT_TO_VIDEO, _PIPELINE),
        PipelineClass("StableDiffusionPipeline", TEXT_TO_VIDEO, _PIPELINE),
    ),
    components=(
        Component("tokenizer", CLIP_TOKENIZERS),
        Component("text_encoder", (CLIP_TEXT,)),
        Component(
            "unet",
            (
                ModelClass(
                    UNet2DConditionConfig, _UNET, made_of="motion_unet", weights_of=("unet", _ADAPTER)
                ),
                ModelClass(UNetMotionConfig, _UNET, made_of="motion_unet"),
            ),
        ),
        Component(_ADAPTER, (ConfigClass(MotionAdapterConfig),), optional=True),
        Component("vae", (AUTOENCODER_KL,)),
        Component("scheduler", (PNDM, DDIM, LCM, EULER, EULER_ANCESTRAL, DPM_SOLVER, UNIPC)),
    ),
    configs=AnimateDiffConfigs,
    rules=task_rules,
    costs=Lazy(f"{_HERE}.costs:COSTS"),
    required_columns=("prompt",),
    fields=FIELDS,
    adapter=_ADAPTER,
    denoiser="unet",
    original_names=Lazy(f"{_HERE}.original_names:original_name"),
    ignores=("safety_checker", "feature_extractor", "image_encoder"),
    ring=False,
    published=("emilianJR/epiCRealism", "stable-diffusion-v1-5/stable-diffusion-v1-5"),
)
