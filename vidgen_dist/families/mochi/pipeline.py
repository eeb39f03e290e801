"""Mochi-1: text-to-video (Genmo 2024, github.com/genmoai/mochi). Parity with diffusers' MochiPipeline.

Shapes: B batch, T latent frames, C latent channels, H and W height and width of the latents, L tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vidgen_dist import nn
from vidgen_dist.encoders.t5 import T5Encoder
from vidgen_dist.families.common.guidance import Halves, constant
from vidgen_dist.families.common.pipeline import Start
from vidgen_dist.families.common.prompts import PromptedPipeline
from vidgen_dist.families.common.rendering import check_finite, draw_noise, round_to
from vidgen_dist.families.mochi.autoencoder import AutoencoderKLMochi
from vidgen_dist.families.mochi.config import MochiConfigs
from vidgen_dist.families.mochi.rules import MochiRequest
from vidgen_dist.families.mochi.transformer import MochiTransformer3DModel
from vidgen_dist.schedulers.flow_match import FlowMatchEulerDiscreteScheduler
from vidgen_dist.weights.tokenizer import tokenize_with_mask

THRESHOLD_NOISE = 0.025
"""How much of the way from noise to the video the first half of the steps covers."""


@dataclass(frozen=True)
class TextCondition:
    """An encoded prompt.

    Args:
        hidden: Text hidden states (B, L, D).
        mask: Which of them belong to the prompt (B, L).
    """

    hidden: np.ndarray
    mask: np.ndarray


class MochiPipeline(PromptedPipeline[MochiRequest, TextCondition, Start[TextCondition]]):
    """Renders requests with one Mochi checkpoint."""

    configs: MochiConfigs
    tokenizer: Any
    text_encoder: T5Encoder
    transformer: MochiTransformer3DModel
    vae: AutoencoderKLMochi
    scheduler: FlowMatchEulerDiscreteScheduler

    def encode(self, r: MochiRequest) -> Halves[TextCondition]:
        return self.encode_texts(
            r, r.prompt, r.negative_prompt if r.is_guided else None, r.max_sequence_length
        )

    def encode_text(self, r: MochiRequest, prompt: str) -> TextCondition:
        ids, mask = tokenize_with_mask(self.tokenizer, prompt, r.max_sequence_length)
        if self.configs.index.force_zeros_for_empty_prompt and not prompt:
            ids, mask = np.zeros_like(ids), np.zeros_like(mask)
        hidden = nn.to_numpy(self.text_encoder(ids, mask))
        check_finite(hidden, "encode, text")
        return TextCondition(hidden, mask)

    def prepare(
        self, r: MochiRequest, halves: Halves[TextCondition], rng: np.random.Generator
    ) -> Start[TextCondition]:
        noise = draw_noise(rng, (1, *self.configs.latent_size(r.num_frames, r.height, r.width)), "float32")
        return Start(
            latents=round_to(noise, self.dtype),
            halves=halves,
            schedule=self.scheduler.schedule(sigmas=linear_quadratic_sigmas(r.num_inference_steps)),
            guidance=constant(r.guidance_scale if r.is_guided else None, r.num_inference_steps),
            carried=self.dtype,
        )

    def predict(
        self,
        r: MochiRequest,
        start: Start[TextCondition],
        latents: np.ndarray,
        condition: TextCondition,
        i: int,
    ) -> nn.Tensor:
        """The transformer's output (B, C, T, H, W)."""
        told = np.full((len(latents),), round_to(start.schedule.timesteps[i], self.dtype), np.float32)
        return self.transformer(self.tensor(latents), self.tensor(condition.hidden), told, condition.mask)

    def decode(
        self, r: MochiRequest, start: Start[TextCondition], latents: np.ndarray, rng: np.random.Generator
    ) -> nn.Tensor:
        """Frames of latents (1, C, T, H, W)."""
        config = self.configs.vae
        scaled = latents / np.float32(config.scaling_factor)
        if config.latents_mean is not None and config.latents_std is not None:
            mean, std = (
                np.array(of_channels, np.float32).reshape(-1, 1, 1, 1)
                for of_channels in (config.latents_mean, config.latents_std)
            )
            scaled = scaled * std + mean
        return self.vae.decode(self.tensor(scaled))


def linear_quadratic_sigmas(steps: int) -> np.ndarray:
    """σ before each step, (steps,): from 1 down along a line for half of them, then ever faster, almost to 0.

    Source: Polyak et al. 2024, "Movie Gen" (arXiv:2410.13720), section 3.4.2, with Genmo's numbers. The line
    ends at 1 - THRESHOLD_NOISE; a parabola continues from there with the line's slope.

    Args:
        steps: 2 or more.
    """
    half = steps // 2
    slope = THRESHOLD_NOISE / half
    rest = steps - half
    bend = (1 - THRESHOLD_NOISE - slope * rest) / rest**2
    behind = np.maximum(np.arange(steps) - half, 0)
    return 1 - (slope * np.arange(steps) + bend * behind**2)
