"""HunyuanVideo (Kong et al. 2024, arXiv:2412.03603)."""

from __future__ import annotations

from vidgen_dist.families.common.components import (
    CLIP_TEXT,
    CLIP_TOKENIZERS,
    FLOW_MATCH_EULER,
    LLAMA_TOKENIZERS,
)
from vidgen_dist.families.common.tasks import TEXT_TO_VIDEO
from vidgen_dist.families.family import Component, Family, Lazy, ModelClass, PipelineClass
from vidgen_dist.families.hunyuan_video.config import (
    HunyuanVideoConfigs,
    LlamaTextConfig,
    TransformerConfig,
    VaeConfig,
)
from vidgen_dist.families.hunyuan_video.rules import FIELDS, task_rules

FAMILY = Family(
    name="HunyuanVideo",
    key="hunyuan_video",
    pipelines=(
        PipelineClass(
            "HunyuanVideoPipeline", TEXT_TO_VIDEO, Lazy(f"{__name__}.pipeline:HunyuanVideoPipeline")
        ),
    ),
    components=(
        Component("tokenizer", LLAMA_TOKENIZERS),
        Component("tokenizer_2", CLIP_TOKENIZERS),
        Component(
            "text_encoder",
            (
                ModelClass(
                    LlamaTextConfig,
                    Lazy("vidgen_dist.encoders.llama:LlamaEncoder"),
                    divided=False,
                ),
            ),
        ),
        Component("text_encoder_2", (CLIP_TEXT,)),
        Component(
            "transformer",
            (
                ModelClass(
                    TransformerConfig,
                    Lazy(f"{__name__}.transformer:HunyuanVideoTransformer3DModel"),
                ),
            ),
        ),
        Component(
            "vae",
            (ModelClass(VaeConfig, Lazy(f"{__name__}.autoencoder:AutoencoderKLHunyuanVideo")),),
        ),
        Component("scheduler", (FLOW_MATCH_EULER,)),
    ),
    configs=HunyuanVideoConfigs,
    rules=task_rules,
    required_columns=("prompt",),
    fields=FIELDS,
    costs=Lazy(f"{__name__}.costs:COSTS"),
    original_names=Lazy(f"{__name__}.original_names:original_name"),
    published=("hunyuanvideo-community/HunyuanVideo",),
)
