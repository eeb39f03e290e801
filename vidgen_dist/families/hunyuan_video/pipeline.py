"""HunyuanVideo: text-to-video (Kong et al. 2024, arXiv:2412.03603).

Parity with diffusers' HunyuanVideoPipeline. Latents live in numpy between the transformer's calls: they are
small, and the scheduler's arithmetic is then the same on every device.

Shapes: B batch, T latent frames, C latent channels, H and W height and width of the latents, L tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vidgen_dist import nn
from vidgen_dist.encoders.clip import CLIPTextEncoder
from vidgen_dist.encoders.llama import LlamaEncoder
from vidgen_dist.families.common.guidance import both_halves, guide
from vidgen_dist.families.common.pipeline import FamilyPipeline, TextAndNoise
from vidgen_dist.families.common.prompts import Encoded
from vidgen_dist.families.common.rendering import Steps, check_finite, draw_noise, round_to, to_frames
from vidgen_dist.families.hunyuan_video.autoencoder import AutoencoderKLHunyuanVideo
from vidgen_dist.families.hunyuan_video.rules import CLIP_TOKENS, Geometry, guided
from vidgen_dist.families.hunyuan_video.transformer import HunyuanVideoTransformer3DModel
from vidgen_dist.families.rules import Rules
from vidgen_dist.parallel.mesh import Mesh
from vidgen_dist.request import RenderRequest, RequestError
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
"""What LLaMA is asked about a prompt: the model was trained with these words, to the letter."""

CROP_START = 95
"""Tokens of the template before the prompt, which are cut off of LLaMA's answer."""


class HunyuanVideoPipeline(FamilyPipeline[TextAndNoise]):
    """Renders requests with one HunyuanVideo checkpoint.

    Args:
        rules: What the checkpoint takes.
        tokenizer, tokenizer_2: LLaMA's and CLIP's.
        text_encoder, text_encoder_2, transformer, vae: Models with their weights loaded.
        scheduler: The checkpoint's noise schedule.
        transformer_config, vae_config: `config.json` of the two, as published.
        dtype: Name of the models' dtype; latents are rounded to it between steps, as in diffusers.
        mesh: The gang that renders together. All ranks render the same requests in the same order.
    """

    def __init__(
        self,
        *,
        rules: Rules,
        tokenizer: Any,
        tokenizer_2: Any,
        text_encoder: LlamaEncoder,
        text_encoder_2: CLIPTextEncoder,
        transformer: HunyuanVideoTransformer3DModel,
        vae: AutoencoderKLHunyuanVideo,
        scheduler: FlowMatchEulerDiscreteScheduler,
        transformer_config: Mapping[str, Any],
        vae_config: Mapping[str, Any],
        dtype: str,
        mesh: Mesh | None = None,
    ) -> None:
        super().__init__(rules, dtype, mesh)
        self.tokenizer = tokenizer
        self.tokenizer_2 = tokenizer_2
        self.text_encoder = text_encoder
        self.text_encoder_2 = text_encoder_2
        self.transformer = transformer
        self.vae = vae
        self.scheduler = scheduler
        self.geometry = Geometry.of(transformer_config, vae_config)

    # Conditioning

    def _encode(self, prompt: str, length: int) -> Encoded:
        """LLaMA's hidden states (1, L, D), which of them are the prompt's (1, L), CLIP's vector (1, P)."""
        ids, mask = tokenize_with_mask(self.tokenizer, TEMPLATE.format(prompt), length + CROP_START)
        hidden, mask = nn.to_numpy(self.text_encoder(ids, mask))[:, CROP_START:], mask[:, CROP_START:]
        if not mask.any():
            raise RequestError(
                "prompt", prompt, f"one that makes tokens beyond the {CROP_START} that are cropped"
            )
        pooled = nn.to_numpy(self.text_encoder_2(tokenize(self.tokenizer_2, prompt, CLIP_TOKENS)).pooled)
        check_finite(hidden, "encode, text")
        check_finite(pooled, "encode, text")
        return hidden, mask, pooled

    def _start(self, request: RenderRequest, rng: np.random.Generator) -> tuple[TextAndNoise, int]:
        assert request.num_inference_steps is not None
        assert request.num_frames is not None
        assert request.height is not None
        assert request.width is not None
        texts = self._encode_texts(request, request.negative_prompt if guided(request) else None)
        steps = request.num_inference_steps
        self.scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.0, steps + 1)[:-1])
        g = self.geometry
        size = request.height // g.spatial, request.width // g.spatial
        shape = (1, g.latent_channels, g.latent_frames(request.num_frames), *size)
        # In float32, whatever the models compute in.
        return TextAndNoise(texts, draw_noise(rng, shape, "float32")), steps

    # Denoising

    def _denoise(self, request: RenderRequest, start: TextAndNoise, steps: Steps) -> np.ndarray:
        """Latents (1, C, T, H, W) after the last step."""
        assert request.true_cfg_scale is not None
        (latents,) = steps.begin(latents=start.noise)
        for i in steps:
            timestep = self.scheduler.timesteps[i]
            # The reference has a timestep in the latents' dtype, and those are float32 before the first step.
            told = timestep if i == 0 else round_to(timestep, self.dtype)
            predicted = self._predict(request, latents, start.texts, told)
            if guided(request):
                predicted = guide(predicted, request.true_cfg_scale)
            latents = round_to(self.scheduler.step(predicted, i, latents, steps.rng), self.dtype)
            steps.end(i, latents=latents)
        return latents

    def _predict(
        self, request: RenderRequest, latents: np.ndarray, texts: Encoded, timestep: np.ndarray
    ) -> np.ndarray:
        """The transformer's output, float32 (B, C, T, H, W): both halves when there is guidance."""
        hidden, mask, pooled = texts
        batch = len(hidden)
        guidance = round_to(np.full((batch,), request.guidance_scale), self.dtype) * 1000
        predicted = self.transformer(
            self._tensor(np.concatenate([latents] * batch)),
            np.full((batch,), timestep, np.float32),
            self._tensor(hidden),
            mask,
            self._tensor(pooled),
            guidance=round_to(guidance, self.dtype),
        )
        if guided(request):
            predicted = both_halves(predicted, self.mesh)
        return nn.to_numpy(predicted)

    def _decode(
        self, _request: RenderRequest, _start: TextAndNoise, latents: np.ndarray, _rng: np.random.Generator
    ) -> np.ndarray:
        """Latents (1, C, T, H, W) to frames (F, height, width, 3) in [0, 1]."""
        scaled = latents / np.float32(self.vae.config.scaling_factor)
        return to_frames(nn.to_numpy(self.vae.decode(self._tensor(scaled))), self.mesh.gang)
