"""The names of the transformer's modules in Tencent's repository (https://github.com/Tencent/HunyuanVideo)."""

from __future__ import annotations

import re

from vidgen_dist.weights.lora.fit import OriginalName

_DOUBLE = {
    "attn.to_q": ("img_attn_qkv", 0),
    "attn.to_k": ("img_attn_qkv", 1),
    "attn.to_v": ("img_attn_qkv", 2),
    "attn.add_q_proj": ("txt_attn_qkv", 0),
    "attn.add_k_proj": ("txt_attn_qkv", 1),
    "attn.add_v_proj": ("txt_attn_qkv", 2),
    "attn.to_out.0": ("img_attn_proj", 0),
    "attn.to_add_out": ("txt_attn_proj", 0),
    "attn.norm_q": ("img_attn_q_norm", 0),
    "attn.norm_k": ("img_attn_k_norm", 0),
    "attn.norm_added_q": ("txt_attn_q_norm", 0),
    "attn.norm_added_k": ("txt_attn_k_norm", 0),
    "norm1.linear": ("img_mod.linear", 0),
    "norm1_context.linear": ("txt_mod.linear", 0),
    "ff.net.0.proj": ("img_mlp.fc1", 0),
    "ff.net.2": ("img_mlp.fc2", 0),
    "ff_context.net.0.proj": ("txt_mlp.fc1", 0),
    "ff_context.net.2": ("txt_mlp.fc2", 0),
}
_SINGLE = {
    "attn.to_q": ("linear1", 0),
    "attn.to_k": ("linear1", 1),
    "attn.to_v": ("linear1", 2),
    "proj_mlp": ("linear1", 3),
    "proj_out": ("linear2", 0),
    "norm.linear": ("modulation.linear", 0),
    "attn.norm_q": ("q_norm", 0),
    "attn.norm_k": ("k_norm", 0),
}
_REFINER = {
    "attn.to_q": ("self_attn_qkv", 0),
    "attn.to_k": ("self_attn_qkv", 1),
    "attn.to_v": ("self_attn_qkv", 2),
    "attn.to_out.0": ("self_attn_proj", 0),
    "ff.net.0.proj": ("mlp.fc1", 0),
    "ff.net.2": ("mlp.fc2", 0),
    "norm_out.linear": ("adaLN_modulation.1", 0),
    "norm1": ("norm1", 0),
    "norm2": ("norm2", 0),
}
_BLOCKS = (
    (re.compile(r"transformer_blocks\.(\d+)\.(.+)"), "double_blocks", _DOUBLE),
    (re.compile(r"single_transformer_blocks\.(\d+)\.(.+)"), "single_blocks", _SINGLE),
    (
        re.compile(r"context_embedder\.token_refiner\.refiner_blocks\.(\d+)\.(.+)"),
        "txt_in.individual_token_refiner.blocks",
        _REFINER,
    ),
)
_OTHERS = {
    "x_embedder.proj": "img_in.proj",
    "time_text_embed.timestep_embedder.linear_1": "time_in.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "time_in.mlp.2",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.mlp.0",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.mlp.2",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "context_embedder.proj_in": "txt_in.input_embedder",
    "context_embedder.time_text_embed.timestep_embedder.linear_1": "txt_in.t_embedder.mlp.0",
    "context_embedder.time_text_embed.timestep_embedder.linear_2": "txt_in.t_embedder.mlp.2",
    "context_embedder.time_text_embed.text_embedder.linear_1": "txt_in.c_embedder.linear_1",
    "context_embedder.time_text_embed.text_embedder.linear_2": "txt_in.c_embedder.linear_2",
    "proj_out": "final_layer.linear",
}


def original_name(module: str) -> OriginalName | None:
    """The original name of a module of diffusers' `HunyuanVideoTransformer3DModel`."""
    if module == "norm_out.linear":
        return OriginalName("final_layer.adaLN_modulation.1", halves_swapped=True)
    for pattern, blocks, names in _BLOCKS:
        if (match := pattern.fullmatch(module)) and match[2] in names:
            name, slot = names[match[2]]
            return OriginalName(f"{blocks}.{match[1]}.{name}", slot)
    return OriginalName(_OTHERS[module]) if module in _OTHERS else None
