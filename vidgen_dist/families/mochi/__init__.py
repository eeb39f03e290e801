"""Mochi-1 (Genmo 2024, github.com/genmoai/mochi)."""

from __future__ import annotations

from vidgen_dist.families.common.components import FLOW_MATCH_EULER, T5, T5_TOKENIZERS
from vidgen_dist.families.common.tasks import TEXT_TO_VIDEO
from vidgen_dist.families.family import Component, Family, Lazy, ModelClass, PipelineClass
from vidgen_dist.families.mochi.config import MochiConfigs, MochiIndex, TransformerConfig, VaeConfig
from vidgen_dist.families.mochi.rules import task_rules

FAMILY = Family(
    name="Mochi",
    key="mochi",
    pipelines=(PipelineClass("MochiPipeline", TEXT_TO_VIDEO, Lazy(f"{__name__}.pipeline:MochiPipeline")),),
    components=(
        Component("tokenizer", T5_TOKENIZERS),
        Component("text_encoder", (T5,)),
        Component(
            "transformer",
            (
                ModelClass(
                    TransformerConfig,
                    Lazy(f"{__name__}.transformer:MochiTransformer3DModel"),
                ),
            ),
        ),
        Component(
            "vae",
            (ModelClass(VaeConfig, Lazy(f"{__name__}.autoencoder:AutoencoderKLMochi")),),
        ),
        Component("scheduler", (FLOW_MATCH_EULER,)),
    ),
    index=MochiIndex,
    configs=MochiConfigs,
    rules=task_rules,
    required_columns=("prompt",),
    costs=Lazy(f"{__name__}.costs:COSTS"),
    published=("genmo/mochi-1-preview",),
)
