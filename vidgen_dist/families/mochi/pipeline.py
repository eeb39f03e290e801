"""Mochi-1: text-to-video (Genmo 2024, github.com/genmoai/mochi).

Parity with diffusers' MochiPipeline. Latents live in numpy between the transformer's calls: they are
small, and the scheduler's arithmetic is then the same on every device.

Shapes: B batch, T latent frames, C latent channels, H and W height and width of the latents, L tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vidgen_dist import nn
from vidgen_dist.encoders.t5 import T5Encoder
from vidgen_dist.families.common.guidance import both_halves, guide, guiding_prompt, is_guided
from vidgen_dist.families.common.pipeline import FamilyPipeline, TextAndNoise
from vidgen_dist.families.common.prompts import Encoded
from vidgen_dist.families.common.rendering import Steps, check_finite, draw_noise, round_to, to_frames
from vidgen_dist.families.mochi.autoencoder import AutoencoderKLMochi
from vidgen_dist.families.mochi.rules import SPATIAL, Geometry
from vidgen_dist.families.mochi.transformer import MochiTransformer3DModel
from vidgen_dist.families.rules import Rules
from vidgen_dist.parallel.mesh import Mesh
from vidgen_dist.request import RenderRequest
from vidgen_dist.schedulers.flow_match import FlowMatchEulerDiscreteScheduler
from vidgen_dist.weights.tokenizer import tokenize_with_mask

THRESHOLD_NOISE = 0.025
"""How far the first half of the steps goes, of the way from noise to the video."""


class MochiPipeline(FamilyPipeline[TextAndNoise]):
    """Renders requests with one Mochi checkpoint.

    Args:
        rules: What the checkpoint takes.
        tokenizer: The checkpoint's T5 tokenizer.
        text_encoder, transformer, vae: Models with their weights loaded.
        scheduler: The checkpoint's noise schedule.
        transformer_config, vae_config: `config.json` of the two, as published.
        zeros_for_empty_prompt: Whether of an empty prompt not even its end token is seen.
        dtype: Name of the models' dtype; latents are rounded to it between steps, as in diffusers.
        mesh: The gang that renders together. All ranks render the same requests in the same order.
    """

    def __init__(
        self,
        *,
        rules: Rules,
        tokenizer: Any,
        text_encoder: T5Encoder,
        transformer: MochiTransformer3DModel,
        vae: AutoencoderKLMochi,
        scheduler: FlowMatchEulerDiscreteScheduler,
        transformer_config: Mapping[str, Any],
        vae_config: Mapping[str, Any],
        zeros_for_empty_prompt: bool,
        dtype: str,
        mesh: Mesh | None = None,
    ) -> None:
        super().__init__(rules, dtype, mesh)
        self.tokenizer = tokenizer
        self.text_encoder = text_encoder
        self.transformer = transformer
        self.vae = vae
        self.scheduler = scheduler
        self.zeros_for_empty_prompt = zeros_for_empty_prompt
        self.geometry = Geometry.of(transformer_config, vae_config)

    # Conditioning

    def _encode(self, prompt: str, length: int) -> Encoded:
        """Text hidden states (1, L, D), and which of them are the prompt's (1, L)."""
        ids, mask = tokenize_with_mask(self.tokenizer, prompt, length)
        if self.zeros_for_empty_prompt and not prompt:
            ids, mask = np.zeros_like(ids), np.zeros_like(mask)
        hidden = nn.to_numpy(self.text_encoder(ids, mask))
        check_finite(hidden, "encode, text")
        return hidden, mask

    def _start(self, request: RenderRequest, rng: np.random.Generator) -> tuple[TextAndNoise, int]:
        assert request.num_inference_steps is not None
        assert request.num_frames is not None
        assert request.height is not None
        assert request.width is not None
        texts = self._encode_texts(request, guiding_prompt(request))
        steps = request.num_inference_steps
        self.scheduler.set_timesteps(sigmas=linear_quadratic_sigmas(steps))
        g = self.geometry
        size = request.height // SPATIAL, request.width // SPATIAL
        noise = draw_noise(rng, (1, g.latent_channels, g.latent_frames(request.num_frames), *size), "float32")
        return TextAndNoise(texts, round_to(noise, self.dtype)), steps

    # Denoising

    def _denoise(self, request: RenderRequest, start: TextAndNoise, steps: Steps) -> np.ndarray:
        """Latents (1, C, T, H, W) after the last step."""
        assert request.guidance_scale is not None
        (latents,) = steps.begin(latents=start.noise)
        for i in steps:
            predicted = self._predict(
                request, latents, start.texts, round_to(self.scheduler.timesteps[i], self.dtype)
            )
            if is_guided(request):
                predicted = guide(predicted, request.guidance_scale)
            latents = round_to(self.scheduler.step(predicted, i, latents, steps.rng), self.dtype)
            steps.end(i, latents=latents)
        return latents

    def _predict(
        self, request: RenderRequest, latents: np.ndarray, texts: Encoded, timestep: np.ndarray
    ) -> np.ndarray:
        """The transformer's output, float32 (B, C, T, H, W): both halves when there is guidance."""
        hidden, mask = texts
        batch = len(hidden)
        predicted = self.transformer(
            self._tensor(np.concatenate([latents] * batch)),
            self._tensor(hidden),
            np.full((batch,), timestep, np.float32),
            mask,
        )
        if is_guided(request):
            predicted = both_halves(predicted, self.mesh)
        return nn.to_numpy(predicted)

    # Decoding

    def _decode(
        self, _request: RenderRequest, _start: TextAndNoise, latents: np.ndarray, _rng: np.random.Generator
    ) -> np.ndarray:
        """Latents (1, C, T, H, W) to frames (F, height, width, 3) in [0, 1]."""
        config = self.vae.config
        scaled = latents / np.float32(config.scaling_factor)
        if config.latents_mean is not None and config.latents_std is not None:
            mean, std = (
                np.array(of_channels, np.float32).reshape(-1, 1, 1, 1)
                for of_channels in (config.latents_mean, config.latents_std)
            )
            scaled = scaled * std + mean
        return to_frames(nn.to_numpy(self.vae.decode(self._tensor(scaled))), self.mesh.gang)


def linear_quadratic_sigmas(steps: int) -> np.ndarray:
    """σ before each step, (steps,): from 1 down a line for half of them, then ever faster, all but to 0.

    Source: Polyak et al. 2024, "Movie Gen" (arXiv:2410.13720), section 3.4.2, with Genmo's numbers. The
    line goes down to 1 - THRESHOLD_NOISE; the parabola goes on from there at the line's slope.

    Args:
        steps: 2 or more.
    """
    half = steps // 2
    slope = THRESHOLD_NOISE / half
    rest = steps - half
    bend = (1 - THRESHOLD_NOISE - slope * rest) / rest**2
    behind = np.maximum(np.arange(steps) - half, 0)
    return 1 - (slope * np.arange(steps) + bend * behind**2)
