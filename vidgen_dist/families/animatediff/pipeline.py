"""AnimateDiff: text-to-video with a Stable Diffusion 1.5 checkpoint and a motion adapter (Guo et al. 2023,
arXiv:2307.04725). Parity with diffusers' AnimateDiffPipeline.

Shapes: B batch, F frames, C latent channels, H and W height and width of the latents, L tokens.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from vidgen_dist import nn
from vidgen_dist.encoders.clip import CLIPTextEncoder
from vidgen_dist.families.animatediff.config import AnimateDiffConfigs
from vidgen_dist.families.animatediff.rules import AnimateDiffRequest
from vidgen_dist.families.animatediff.unet import UNetMotionModel
from vidgen_dist.families.common.autoencoder_kl import AutoencoderKL
from vidgen_dist.families.common.guidance import Halves, constant
from vidgen_dist.families.common.pipeline import Start
from vidgen_dist.families.common.prompts import PromptedPipeline, clip_hidden
from vidgen_dist.families.common.rendering import starting_noise
from vidgen_dist.schedulers.discrete import DiscreteScheduler


@dataclass(frozen=True)
class TextCondition:
    """An encoded prompt.

    Args:
        hidden: Text hidden states (B, L, D).
    """

    hidden: np.ndarray


class AnimateDiffPipeline(PromptedPipeline[AnimateDiffRequest, TextCondition, Start[TextCondition]]):
    """Renders requests with one checkpoint and one motion adapter."""

    configs: AnimateDiffConfigs
    tokenizer: Any
    text_encoder: CLIPTextEncoder
    unet: UNetMotionModel
    vae: AutoencoderKL
    scheduler: DiscreteScheduler[Any]

    def encode(self, r: AnimateDiffRequest) -> Halves[TextCondition]:
        positive = self.encode_texts(r, r.prompt, None, r.clip_skip).conditional
        if not r.is_guided:
            return Halves(positive)
        # The reference skips layers for the positive prompt only.
        whole = dataclasses.replace(r, clip_skip=0)
        negative = self.encode_texts(whole, r.negative_prompt, None, whole.clip_skip).conditional
        return Halves(positive, negative)

    def encode_text(self, r: AnimateDiffRequest, prompt: str) -> TextCondition:
        return TextCondition(clip_hidden(self.tokenizer, self.text_encoder, prompt, r.clip_skip))

    def prepare(
        self, r: AnimateDiffRequest, halves: Halves[TextCondition], rng: np.random.Generator
    ) -> Start[TextCondition]:
        size = self.configs.latent_size(r.num_frames, r.height, r.width)
        schedule = self.scheduler.schedule(r.num_inference_steps, eta=r.eta)
        return Start(
            latents=starting_noise(rng, (1, *size), schedule, self.dtype),
            halves=halves,
            schedule=schedule,
            guidance=constant(r.guidance_scale if r.is_guided else None, len(schedule)),
            carried=self.dtype,
        )

    def predict(
        self,
        r: AnimateDiffRequest,
        start: Start[TextCondition],
        latents: np.ndarray,
        condition: TextCondition,
        i: int,
    ) -> nn.Tensor:
        """The UNet's output (B, C, F, H, W)."""
        timesteps = np.full((len(latents),), start.schedule.timesteps[i], np.float32)
        return self.unet(self.tensor(latents), timesteps, self.tensor(condition.hidden))

    def decode(
        self,
        r: AnimateDiffRequest,
        start: Start[TextCondition],
        latents: np.ndarray,
        rng: np.random.Generator,
    ) -> nn.Tensor:
        """Frames of latents (1, C, F, H, W)."""
        scaled = latents * np.float32(1 / self.configs.vae.scaling_factor)
        return self.vae.decode(self.tensor(scaled), r.decode_chunk_size)
