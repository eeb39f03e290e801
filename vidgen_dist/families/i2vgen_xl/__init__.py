"""I2VGen-XL (Zhang et al. 2023, arXiv:2311.04145)."""

from __future__ import annotations

from vidgen_dist.families.common.components import (
    AUTOENCODER_KL,
    CLIP_IMAGE_PROCESSORS,
    CLIP_TEXT,
    CLIP_TOKENIZERS,
    CLIP_VISION,
    DDIM,
    DPM_SOLVER,
    EULER,
    EULER_ANCESTRAL,
    LCM,
    PNDM,
    UNIPC,
)
from vidgen_dist.families.common.tasks import IMAGE_TO_VIDEO
from vidgen_dist.families.family import Component, Family, Lazy, ModelClass, PipelineClass
from vidgen_dist.families.i2vgen_xl.config import I2VGenXLConfigs, UNetConfig
from vidgen_dist.families.i2vgen_xl.rules import FIELDS, task_rules

FAMILY = Family(
    name="I2VGen-XL",
    key="i2vgen_xl",
    pipelines=(
        PipelineClass("I2VGenXLPipeline", IMAGE_TO_VIDEO, Lazy(f"{__name__}.pipeline:I2VGenXLPipeline")),
    ),
    components=(
        Component("tokenizer", CLIP_TOKENIZERS),
        Component("text_encoder", (CLIP_TEXT,)),
        Component("feature_extractor", CLIP_IMAGE_PROCESSORS),
        Component("image_encoder", (CLIP_VISION,)),
        Component("unet", (ModelClass(UNetConfig, Lazy(f"{__name__}.unet:I2VGenXLUNet")),)),
        Component("vae", (AUTOENCODER_KL,)),
        Component("scheduler", (DDIM, PNDM, LCM, EULER, EULER_ANCESTRAL, DPM_SOLVER, UNIPC)),
    ),
    configs=I2VGenXLConfigs,
    rules=task_rules,
    required_columns=("prompt",),
    fields=FIELDS,
    costs=Lazy(f"{__name__}.costs:COSTS"),
    denoiser="unet",
    ring=False,
    published=("ali-vilab/i2vgen-xl",),
)
