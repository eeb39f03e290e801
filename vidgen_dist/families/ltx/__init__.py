"""LTX-Video (HaCohen et al. 2024, arXiv:2501.00103)."""

from __future__ import annotations

from vidgen_dist.families.common.components import FLOW_MATCH_EULER, T5, T5_TOKENIZERS
from vidgen_dist.families.common.tasks import IMAGE_TO_VIDEO, TEXT_TO_VIDEO
from vidgen_dist.families.family import Component, Family, Lazy, ModelClass, PipelineClass
from vidgen_dist.families.ltx.config import LTXConfigs, TransformerConfig, VaeConfig
from vidgen_dist.families.ltx.rules import FIELDS, task_rules

_PIPELINE = Lazy(f"{__name__}.pipeline:LTXPipeline")

FAMILY = Family(
    name="LTX-Video",
    key="ltx",
    pipelines=(
        PipelineClass("LTXPipeline", TEXT_TO_VIDEO, _PIPELINE),
        PipelineClass("LTXImageToVideoPipeline", IMAGE_TO_VIDEO, _PIPELINE),
    ),
    components=(
        Component("tokenizer", T5_TOKENIZERS),
        Component("text_encoder", (T5,)),
        Component(
            "transformer",
            (
                ModelClass(
                    TransformerConfig,
                    Lazy(f"{__name__}.transformer:LTXVideoTransformer3DModel"),
                ),
            ),
        ),
        Component(
            "vae",
            (ModelClass(VaeConfig, Lazy(f"{__name__}.autoencoder:AutoencoderKLLTXVideo")),),
        ),
        Component("scheduler", (FLOW_MATCH_EULER,)),
    ),
    configs=LTXConfigs,
    rules=task_rules,
    required_columns=("prompt",),
    fields=FIELDS,
    costs=Lazy(f"{__name__}.costs:COSTS"),
    original_names=Lazy(f"{__name__}.original_names:original_name"),
    published=("Lightricks/LTX-Video", "a-r-r-o-w/LTX-Video-0.9.1-diffusers"),
)
