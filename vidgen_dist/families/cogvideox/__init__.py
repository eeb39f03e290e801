"""CogVideoX (Yang et al. 2024, arXiv:2408.06072): 2b, 5b and 1.5."""

from __future__ import annotations

from vidgen_dist.families.cogvideox.config import CogVideoXConfigs, TransformerConfig, VaeConfig
from vidgen_dist.families.cogvideox.rules import task_rules
from vidgen_dist.families.common.components import T5, T5_TOKENIZERS
from vidgen_dist.families.common.tasks import IMAGE_TO_VIDEO, TEXT_TO_VIDEO, VIDEO_TO_VIDEO
from vidgen_dist.families.family import Component, Family, Lazy, ModelClass, PipelineClass, SchedulerClass
from vidgen_dist.schedulers.cogvideox_ddim import CogVideoXDDIMConfig, CogVideoXDDIMScheduler
from vidgen_dist.schedulers.cogvideox_dpm import CogVideoXDPMConfig, CogVideoXDPMScheduler

FAMILY = Family(
    name="CogVideoX",
    key="cogvideox",
    pipelines=(
        PipelineClass("CogVideoXPipeline", TEXT_TO_VIDEO, Lazy(f"{__name__}.pipeline:TextToVideoPipeline")),
        PipelineClass(
            "CogVideoXImageToVideoPipeline",
            IMAGE_TO_VIDEO,
            Lazy(f"{__name__}.pipeline:ImageToVideoPipeline"),
        ),
        PipelineClass(
            "CogVideoXVideoToVideoPipeline",
            VIDEO_TO_VIDEO,
            Lazy(f"{__name__}.pipeline:VideoToVideoPipeline"),
        ),
    ),
    components=(
        Component("tokenizer", T5_TOKENIZERS),
        Component("text_encoder", (T5,)),
        Component(
            "transformer",
            (
                ModelClass(
                    TransformerConfig,
                    Lazy(f"{__name__}.transformer:CogVideoXTransformer3DModel"),
                ),
            ),
        ),
        Component(
            "vae",
            (ModelClass(VaeConfig, Lazy(f"{__name__}.autoencoder:AutoencoderKLCogVideoX")),),
        ),
        Component(
            "scheduler",
            (
                SchedulerClass(CogVideoXDDIMConfig, CogVideoXDDIMScheduler),
                SchedulerClass(CogVideoXDPMConfig, CogVideoXDPMScheduler),
            ),
        ),
    ),
    configs=CogVideoXConfigs,
    rules=task_rules,
    required_columns=("prompt",),
    costs=Lazy(f"{__name__}.costs:COSTS"),
    published=(
        "zai-org/CogVideoX-2b",
        "zai-org/CogVideoX-5b",
        "zai-org/CogVideoX-5b-I2V",
        "zai-org/CogVideoX1.5-5B",
        "zai-org/CogVideoX1.5-5B-I2V",
    ),
)
