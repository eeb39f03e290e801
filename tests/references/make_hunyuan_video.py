"""Makes the HunyuanVideo references: tiny random checkpoints, and diffusers' frames for them.

    python tests/references/make_hunyuan_video.py [case ...]

Needs torch, diffusers, transformers 4, tokenizers (README.md names the versions). Configs have the keys and,
but for their sizes and what a case is for, the values of hunyuanvideo-community/HunyuanVideo.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
)
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    LlamaConfig,
    LlamaModel,
    LlamaTokenizer,
    LlamaTokenizerFast,
)

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import making  # noqa: E402

TRANSFORMER = {
    # Three heads: no power of two divides them.
    "num_attention_heads": 3,
    "attention_head_dim": 8,
    "rope_axes_dim": (4, 2, 2),
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 2,
    "num_single_layers": 2,
    "num_refiner_layers": 2,
    "mlp_ratio": 4.0,
    "patch_size": 2,
    "patch_size_t": 1,
    "qk_norm": "rms_norm",
    "guidance_embeds": True,
    "text_embed_dim": 24,
    "pooled_projection_dim": 20,
    "rope_theta": 256.0,
}
VAE = {
    "block_out_channels": (4, 8, 8, 8),
    # At least two channels per group: normalising a single channel would cancel its bias unseen.
    "norm_num_groups": 2,
    "layers_per_block": 1,
    "latent_channels": 4,
    "scaling_factor": 0.476986,
}
LLAMA = {
    "hidden_size": 24,
    "intermediate_size": 40,
    # Two are run: the third hidden state from the end is used.
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    # Not hidden_size / num_attention_heads: a layer that confuses the two does not load.
    "head_dim": 8,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "max_position_embeddings": 8192,
}
CLIP = {
    "hidden_size": 20,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "projection_dim": 20,
    "hidden_act": "quick_gelu",
    "bos_token_id": 0,
    "pad_token_id": 1,
    # Wrong, as in the published config: the highest id is then the end token.
    "eos_token_id": 2,
}
BOS, PAD, EOT = "<|begin_of_text|>", "<pad>", "<|eot_id|>"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One checkpoint and its requests."""

    seed: int
    requests: list[dict[str, Any]]
    transformer: dict[str, Any] = field(default_factory=dict)
    vae: dict[str, Any] = field(default_factory=dict)
    llama: dict[str, Any] = field(default_factory=dict)
    clip: dict[str, Any] = field(default_factory=dict)
    true_end: bool = False
    padding_side: str = "right"
    sentencepiece: bool = False
    dtype: torch.dtype = torch.float32
    save: dict[str, Any] = field(default_factory=dict)
    vae_pieces: bool = False


CASES = {
    "t2v": Case(
        seed=70,
        vae_pieces=True,
        requests=[
            {
                "prompt": making.PROMPT,
                "height": 32,
                "width": 48,
                "num_frames": 9,
                "num_inference_steps": 4,
                "max_sequence_length": 48,
                "seed": 7,
            },
            {
                # A prompt and a negative one of another length; two tiles of frames; a single row of tokens.
                "prompt": "Waves roll over a quiet beach.",
                "negative_prompt": "blurry, low quality, watermark",
                "true_cfg_scale": 3.5,
                "height": 16,
                "width": 32,
                "num_frames": 21,
                "num_inference_steps": 3,
                "guidance_scale": 2.5,
                "max_sequence_length": 40,
                "seed": 2**62 + 11,
            },
            {
                # More words than both encoders take, frames that are rounded, no guidance because there is no
                # negative prompt, and the pipeline's own max_sequence_length.
                "prompt": " ".join(making.SENTENCES * 2),
                "true_cfg_scale": 4.0,
                "height": 48,
                "width": 16,
                "num_frames": 8,
                "num_inference_steps": 2,
                "guidance_scale": 1.0,
                "seed": 0,
            },
        ],
    ),
    "odd": Case(
        seed=71,
        transformer={"guidance_embeds": False, "num_single_layers": 3, "num_refiner_layers": 1},
        vae={"spatial_compression_ratio": 4, "mid_block_add_attention": False, "layers_per_block": 2},
        llama={"num_key_value_heads": 4, "attention_bias": True, "mlp_bias": True, "num_hidden_layers": 3},
        clip={"hidden_act": "gelu"},
        true_end=True,
        padding_side="left",
        dtype=torch.bfloat16,
        save={"max_shard_size": "100KB", "variant": "bf16"},
        requests=[
            {
                "prompt": making.PROMPT,
                "negative_prompt": "",
                "true_cfg_scale": 2.0,
                "height": 16,
                "width": 48,
                "num_frames": 5,
                "num_inference_steps": 3,
                "max_sequence_length": 64,
                "seed": 8,
            },
            {
                "prompt": "Ein Zug im Regen — 雨",
                "height": 32,
                "width": 16,
                "num_frames": 1,
                "num_inference_steps": 5,
                "max_sequence_length": 32,
                "seed": 123456789,
            },
        ],
    ),
    # Sizes of diffusers' own tests.
    "dummy": Case(
        seed=72,
        transformer={
            "num_attention_heads": 2,
            "attention_head_dim": 10,
            "num_layers": 1,
            "num_single_layers": 1,
            "num_refiner_layers": 1,
            "patch_size": 1,
            "text_embed_dim": 16,
            "pooled_projection_dim": 8,
            "rope_axes_dim": (2, 4, 4),
        },
        vae={"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4},
        llama={
            "hidden_size": 16,
            "intermediate_size": 37,
            # None is run.
            "num_hidden_layers": 2,
            "num_key_value_heads": 4,
            "head_dim": None,
            "hidden_act": "gelu",
        },
        clip={
            "hidden_size": 8,
            "intermediate_size": 37,
            "num_attention_heads": 4,
            "projection_dim": 32,
            "hidden_act": "gelu",
        },
        sentencepiece=True,
        requests=[
            {
                "prompt": "dance monkey",
                "negative_prompt": "bad",
                "true_cfg_scale": 2.0,
                "height": 16,
                "width": 16,
                "num_frames": 9,
                "num_inference_steps": 2,
                "guidance_scale": 4.5,
                "max_sequence_length": 16,
                "seed": 0,
            },
        ],
    ),
}


def llama_tokenizer(padding_side: str) -> LlamaTokenizerFast:
    """Byte-level pairs, trained until the template's tokens are about as many as are cropped."""
    template = DEFAULT_PROMPT_TEMPLATE["template"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = [BOS, "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", EOT, PAD]
    trainer = trainers.BpeTrainer(
        vocab_size=580,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*making.SENTENCES, *[template] * 3], trainer)
    return LlamaTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token="<|end_of_text|>",
        unk_token=None,
        pad_token=AddedToken(PAD, special=True),
        padding_side=padding_side,
    )


def sentencepiece_tokenizer() -> LlamaTokenizer:
    """The slow class, with T5's words."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tokenizer.model")
        path.write_bytes(making.sentencepiece_model())
        return LlamaTokenizer(
            str(path), unk_token="<unk>", bos_token="</s>", eos_token="</s>", pad_token="<pad>"
        )


def build(case: Case, folder: Path) -> None:
    """Writes the case's checkpoint, with its last convolution scaled so that few pixels are clipped."""
    folder.mkdir(parents=True)
    tokenizer = sentencepiece_tokenizer() if case.sentencepiece else llama_tokenizer(case.padding_side)
    tokenizer_2 = making.clip_tokenizer()
    clip = {**CLIP, **case.clip}
    if case.true_end:
        clip["eos_token_id"] = tokenizer_2.eos_token_id
    torch.manual_seed(case.seed)
    text_encoder = LlamaModel(LlamaConfig(vocab_size=len(tokenizer), **{**LLAMA, **case.llama}))
    text_encoder_2 = CLIPTextModel(CLIPTextConfig(vocab_size=len(tokenizer_2), **clip))
    transformer = HunyuanVideoTransformer3DModel(**{**TRANSFORMER, **case.transformer})
    vae = AutoencoderKLHunyuanVideo(**{**VAE, **case.vae})
    for offset, module in enumerate((text_encoder, text_encoder_2, transformer, vae)):
        making.randomise(module, 1000 * case.seed + offset)
    pipeline = HunyuanVideoPipeline(
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        text_encoder=text_encoder,
        text_encoder_2=text_encoder_2,
        transformer=transformer,
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
    )
    pipeline.set_progress_bar_config(disable=True)

    decoded: list[torch.Tensor] = []
    with making.recorded(vae, "decode", lambda result, *_, **__: decoded.append(result[0])):
        for request in case.requests:
            render(pipeline, request)
    level = torch.cat([video.flatten(2) for video in decoded], dim=2)
    conv_out = vae.decoder.conv_out.conv
    with torch.no_grad():
        gain = 0.45 / level.std()
        conv_out.weight *= gain
        conv_out.bias.copy_((conv_out.bias - level.mean((0, 2))) * gain + 0.05 * torch.randn(3))

    pipeline.to(case.dtype)
    pipeline.save_pretrained(folder, safe_serialization=True, **case.save)


def render(pipeline: Any, request: dict[str, Any]) -> np.ndarray:
    """Frames (F, H, W, 3), float32 in [0, 1], with the noise of the request's seed."""
    arguments = dict(request)
    with making.numpy_noise(arguments.pop("seed")):
        return pipeline(**arguments, output_type="np").frames[0].astype(np.float32)


def record_request(pipeline: Any, request: dict[str, Any]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Renders a request and keeps the inputs and outputs of each model."""
    pieces: dict[str, np.ndarray] = {}
    steps: list[tuple[torch.Tensor, dict[str, Any]]] = []

    def text(result: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> None:
        which = "prompt" if "text_encoder.prompt.input_ids" not in pieces else "negative_prompt"
        pieces[f"text_encoder.{which}.input_ids"] = making.numbers(input_ids)
        pieces[f"text_encoder.{which}.attention_mask"] = making.numbers(attention_mask)
        pieces[f"text_encoder.{which}.output"] = making.numbers(result.hidden_states[-3])

    def text_2(result: Any, input_ids: torch.Tensor, **_: Any) -> None:
        which = "prompt" if "text_encoder_2.prompt.input_ids" not in pieces else "negative_prompt"
        pieces[f"text_encoder_2.{which}.input_ids"] = making.numbers(input_ids)
        pieces[f"text_encoder_2.{which}.hidden"] = making.numbers(result.last_hidden_state)
        pieces[f"text_encoder_2.{which}.pooled"] = making.numbers(result.pooler_output)

    def step(result: Any, **inputs: Any) -> None:
        steps.append((result[0], inputs))

    def decode(result: Any, latents: torch.Tensor, **_: Any) -> None:
        pieces["vae.decode.input"] = making.numbers(latents)
        pieces["vae.decode.output"] = making.numbers(result[0])

    with (
        making.recorded(pipeline.text_encoder, "forward", text),
        making.recorded(pipeline.text_encoder_2, "forward", text_2),
        making.recorded(pipeline.transformer, "forward", step),
        making.recorded(pipeline.vae, "decode", decode),
    ):
        frames = render(pipeline, request)

    pieces |= making.first_and_last(
        steps,
        "hidden_states",
        "timestep",
        "encoder_hidden_states",
        "encoder_attention_mask",
        "pooled_projections",
        "guidance",
    )
    return frames, pieces


def record_vae(vae: AutoencoderKLHunyuanVideo, seed: int) -> dict[str, np.ndarray]:
    """Whole videos, tiles of frames with every remainder, a batch of two, and tiles of rows and columns."""
    recorder = making.VaePieces(vae, seed)
    channels = vae.config.latent_channels
    recorder.decode("decode_one", 2, channels, 1, 2, 3)
    # In the second, the last tile would have only the frame of the one before it.
    recorder.decode("decode_tiles", 1, channels, 6, 2, 2)
    recorder.decode("decode_last_tile_empty", 1, channels, 7, 1, 2)
    recorder.encode("encode_one", 2, 1, 16, 24)
    recorder.encode("encode_whole", 1, 16, 16, 16)
    recorder.encode("encode_tiles", 1, 30, 16, 8)
    vae.enable_tiling(
        tile_sample_min_height=32,
        tile_sample_min_width=24,
        tile_sample_min_num_frames=8,
        tile_sample_stride_height=24,
        tile_sample_stride_width=16,
        tile_sample_stride_num_frames=4,
    )
    recorder.decode("tiled_decode", 1, channels, 3, 5, 4)
    recorder.encode("tiled_encode", 1, 9, 40, 32)
    vae.disable_tiling()
    return recorder.pieces


def make(name: str, case: Case) -> None:
    folder = HERE / "hunyuan_video" / name
    shutil.rmtree(folder, ignore_errors=True)
    build(case, folder / "checkpoint")
    pipeline = HunyuanVideoPipeline.from_pretrained(
        folder / "checkpoint", torch_dtype=torch.float32, variant=case.save.get("variant")
    )
    pipeline.set_progress_bar_config(disable=True)

    frames, pieces = record_request(pipeline, case.requests[0])
    videos = [frames, *(render(pipeline, request) for request in case.requests[1:])]
    if case.vae_pieces:
        pieces |= record_vae(pipeline.vae, case.seed)

    making.save_reference(
        folder,
        task="text-to-video",
        variant=case.save.get("variant"),
        requests=case.requests,
        videos=videos,
        pieces=pieces,
        media={},
    )


if __name__ == "__main__":
    making.main(make, CASES)
