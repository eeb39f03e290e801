"""HunyuanVideo: text-to-video (Kong et al. 2024, arXiv:2412.03603). Parity with diffusers'
HunyuanVideoPipeline.

Shapes: B batch, T latent frames, C latent channels, H and W height and width of the latents, L tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vidgen_dist import nn
from vidgen_dist.encoders.clip import CLIPTextEncoder
from vidgen_dist.encoders.llama import LlamaEncoder
from vidgen_dist.families.common.guidance import Halves, constant
from vidgen_dist.families.common.pipeline import Start
from vidgen_dist.families.common.prompts import PromptedPipeline
from vidgen_dist.families.common.rendering import check_finite, draw_noise, round_to
from vidgen_dist.families.hunyuan_video.autoencoder import AutoencoderKLHunyuanVideo
from vidgen_dist.families.hunyuan_video.config import CLIP_TOKENS, HunyuanVideoConfigs
from vidgen_dist.families.hunyuan_video.rules import HunyuanVideoRequest
from vidgen_dist.families.hunyuan_video.transformer import HunyuanVideoTransformer3DModel
from vidgen_dist.request import RequestError
from vidgen_dist.schedulers.flow_match import FlowMatchEulerDiscreteScheduler
from vidgen_dist.weights.tokenizer import tokenize, tokenize_with_mask

TEMPLATE = (
    "<|start_header_id|>system<|end_header_id|>\n\nDescribe the video by detailing the following aspects: "
    "1. The main content and theme of the video."
    "2. The color, shape, size, texture, quantity, text, and spatial relationships of the objects."
    "3. Actions, events, behaviors temporal relationships, physical movement changes of the objects."
    "4. background environment, light, style and atmosphere."
    "5. camera angles, movements, and transitions used in the video:<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>"
)
"""The instruction that LLaMA gets with a prompt: the model was trained with exactly these words."""

CROP_START = 95
"""Tokens of the template before the prompt, which are removed from LLaMA's output."""


@dataclass(frozen=True)
class TextCondition:
    """An encoded prompt.

    Args:
        hidden: LLaMA's hidden states (B, L, D).
        mask: Which of them belong to the prompt (B, L).
        pooled: CLIP's vector (B, P).
    """

    hidden: np.ndarray
    mask: np.ndarray
    pooled: np.ndarray


class HunyuanVideoPipeline(PromptedPipeline[HunyuanVideoRequest, TextCondition, Start[TextCondition]]):
    """Renders requests with one HunyuanVideo checkpoint."""

    configs: HunyuanVideoConfigs
    tokenizer: Any
    tokenizer_2: Any
    text_encoder: LlamaEncoder
    text_encoder_2: CLIPTextEncoder
    transformer: HunyuanVideoTransformer3DModel
    vae: AutoencoderKLHunyuanVideo
    scheduler: FlowMatchEulerDiscreteScheduler

    def encode(self, r: HunyuanVideoRequest) -> Halves[TextCondition]:
        return self.encode_texts(
            r, r.prompt, r.negative_prompt if r.is_guided else None, r.max_sequence_length
        )

    def encode_text(self, r: HunyuanVideoRequest, prompt: str) -> TextCondition:
        asked, length = TEMPLATE.format(prompt), r.max_sequence_length + CROP_START
        ids, mask = tokenize_with_mask(self.tokenizer, asked, length)
        hidden, mask = nn.to_numpy(self.text_encoder(ids, mask))[:, CROP_START:], mask[:, CROP_START:]
        if not mask.any():
            allowed = f"a prompt with tokens after the {CROP_START} that are cropped"
            raise RequestError("prompt", prompt, allowed)
        pooled = nn.to_numpy(self.text_encoder_2(tokenize(self.tokenizer_2, prompt, CLIP_TOKENS)).pooled)
        check_finite(hidden, "encode, text")
        check_finite(pooled, "encode, text")
        return TextCondition(hidden, mask, pooled)

    def prepare(
        self, r: HunyuanVideoRequest, halves: Halves[TextCondition], rng: np.random.Generator
    ) -> Start[TextCondition]:
        size = self.configs.latent_size(r.num_frames, r.height, r.width)
        sigmas = np.linspace(1.0, 0.0, r.num_inference_steps + 1)[:-1]
        return Start(
            # In float32, whatever dtype the models compute in.
            latents=draw_noise(rng, (1, *size), "float32"),
            halves=halves,
            schedule=self.scheduler.schedule(sigmas=sigmas),
            guidance=constant(r.true_cfg_scale if r.is_guided else None, r.num_inference_steps),
            carried=self.dtype,
        )

    def predict(
        self,
        r: HunyuanVideoRequest,
        start: Start[TextCondition],
        latents: np.ndarray,
        condition: TextCondition,
        i: int,
    ) -> nn.Tensor:
        """The transformer's output (B, C, T, H, W)."""
        batch = (len(latents),)
        timestep = start.schedule.timesteps[i]
        # In the reference the timestep has the latents' dtype, which is float32 before the first step.
        told = timestep if i == 0 else round_to(timestep, self.dtype)
        embedded = round_to(np.full(batch, r.guidance_scale), self.dtype) * 1000
        return self.transformer(
            self.tensor(latents),
            np.full(batch, told, np.float32),
            self.tensor(condition.hidden),
            condition.mask,
            self.tensor(condition.pooled),
            guidance=round_to(embedded, self.dtype),
        )

    def decode(
        self,
        r: HunyuanVideoRequest,
        start: Start[TextCondition],
        latents: np.ndarray,
        rng: np.random.Generator,
    ) -> nn.Tensor:
        """Frames of latents (1, C, T, H, W)."""
        return self.vae.decode(self.tensor(latents / np.float32(self.configs.vae.scaling_factor)))
