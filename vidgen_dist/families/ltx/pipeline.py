"""LTX-Video: text- and image-to-video (HaCohen et al. 2024, arXiv:2501.00103).

Parity with diffusers' LTXPipeline and LTXImageToVideoPipeline. Between two predictions latents are float32,
whatever dtype the models compute in, and are tokens: each is one latent pixel.

Shapes: B batch, N tokens, C latent channels, T latent frames, H and W height and width of the latents, L text
tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from vidgen_dist import media, nn
from vidgen_dist.encoders.t5 import T5Encoder
from vidgen_dist.families.common.guidance import Halves, constant
from vidgen_dist.families.common.pipeline import Start
from vidgen_dist.families.common.prompts import PromptedPipeline
from vidgen_dist.families.common.rendering import check_finite, draw_noise, round_to, to_pixels
from vidgen_dist.families.ltx.autoencoder import AutoencoderKLLTXVideo
from vidgen_dist.families.ltx.config import LTXConfigs
from vidgen_dist.families.ltx.rules import LTXImageRequest, LTXRequest
from vidgen_dist.families.ltx.transformer import LTXVideoTransformer3DModel
from vidgen_dist.schedulers.flow_match import FlowMatchEulerDiscreteScheduler
from vidgen_dist.schedulers.schedule import Memory
from vidgen_dist.weights.tokenizer import tokenize_with_mask


@dataclass(frozen=True)
class TextCondition:
    """An encoded prompt.

    Args:
        hidden: Text hidden states (B, L, D).
        mask: Which of them belong to the prompt, (B, L) bool.
    """

    hidden: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True, kw_only=True)
class TokenStart(Start[TextCondition]):
    """Where denoising begins, its latents as tokens (1, N, C).

    Args:
        size: Latent frames, rows and columns.
        given: How many of the first tokens are an image's. The model gets time 0 for them, and steps do not
            change them.
    """

    size: tuple[int, int, int]
    given: int


class LTXPipeline(PromptedPipeline[LTXRequest, TextCondition, TokenStart]):
    """Renders requests with one LTX-Video checkpoint."""

    configs: LTXConfigs
    tokenizer: Any
    text_encoder: T5Encoder
    transformer: LTXVideoTransformer3DModel
    vae: AutoencoderKLLTXVideo
    scheduler: FlowMatchEulerDiscreteScheduler

    # Conditioning

    def encode(self, r: LTXRequest) -> Halves[TextCondition]:
        return self.encode_texts(
            r, r.prompt, r.negative_prompt if r.is_guided else None, r.max_sequence_length
        )

    def encode_text(self, r: LTXRequest, prompt: str) -> TextCondition:
        ids, mask = tokenize_with_mask(self.tokenizer, prompt, r.max_sequence_length)
        # Padding is attended to here; only the transformer leaves it out.
        hidden = nn.to_numpy(self.text_encoder(ids))
        check_finite(hidden, "encode, text")
        return TextCondition(hidden, mask)

    def prepare(self, r: LTXRequest, halves: Halves[TextCondition], rng: np.random.Generator) -> TokenStart:
        channels, frames, height, width = self.configs.latent_size(r.num_frames, r.height, r.width)
        size = (frames, height, width)
        # The image's posterior is sampled before the noise is drawn.
        image = self._image_latents(r, rng) if isinstance(r, LTXImageRequest) else None
        latents = draw_noise(rng, (1, channels, *size), "float32")
        if image is not None:
            latents[:, :, :1] = image
        steps = r.num_inference_steps
        return TokenStart(
            latents=_pack(latents),
            halves=halves,
            schedule=self.scheduler.schedule(
                sigmas=np.linspace(1.0, 1 / steps, steps), mu=self.scheduler.mu(math.prod(size))
            ),
            guidance=constant(r.guidance_scale if r.is_guided else None, steps, r.guidance_rescale),
            carried="float32",
            size=size,
            given=0 if image is None else height * width,
        )

    def _image_latents(self, r: LTXImageRequest, rng: np.random.Generator) -> np.ndarray:
        """The image's latents, normalised for the transformer, (1, C, 1, H, W)."""
        pixels = to_pixels([media.read_image(r.image)], r.height, r.width)
        sample = self.sample_posterior(*self.vae.encode(self.tensor(pixels)), rng)
        mean, std = self._statistics()
        return (round_to(sample, self.dtype) - mean) / std

    def _statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the VAE's latents, (C, 1, 1, 1)."""
        mean, std = (nn.to_numpy(value) for value in (self.vae.latents_mean, self.vae.latents_std))
        return mean.reshape(-1, 1, 1, 1), std.reshape(-1, 1, 1, 1)

    # Denoising

    def predict(
        self, r: LTXRequest, start: TokenStart, latents: np.ndarray, condition: TextCondition, i: int
    ) -> nn.Tensor:
        """The transformer's output (B, N, C)."""
        times = np.full((len(latents),), start.schedule.timesteps[i], np.float32)
        if start.given:
            times = np.repeat(times[:, None], latents.shape[1], axis=1)
            times[:, : start.given] = 0
        spatial, temporal = self.configs.vae.spatial, self.configs.vae.temporal
        return self.transformer(
            self.tensor(latents),
            self.tensor(condition.hidden),
            times,
            condition.mask,
            *start.size,
            rope_interpolation_scale=(temporal / r.frame_rate, spatial, spatial),
        )

    def step(
        self,
        r: LTXRequest,
        start: TokenStart,
        prediction: np.ndarray,
        latents: np.ndarray,
        memory: Memory,
        i: int,
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, Memory]:
        """Tokens (1, N, C) after a step; those of an image do not change."""
        if not start.given:
            return start.schedule.step(prediction, i, latents, memory, rng)
        frames, height, width = start.size
        given, noisy = np.split(latents, [start.given], axis=1)
        # As latents: if the scheduler draws noise, the reference draws it in this order.
        size = (frames - 1, height, width)
        direction = _unpack(prediction[:, start.given :], size)
        stepped, memory = start.schedule.step(direction, i, _unpack(noisy, size), memory, rng)
        return np.concatenate([given, _pack(stepped)], axis=1), memory

    # Decoding

    def decode(
        self, r: LTXRequest, start: TokenStart, latents: np.ndarray, rng: np.random.Generator
    ) -> nn.Tensor:
        """Frames of tokens (1, N, C)."""
        config = self.configs.vae
        mean, std = self._statistics()
        scaled = _unpack(latents, start.size) * std / np.float32(config.scaling_factor) + mean
        scaled = round_to(scaled, self.dtype)
        timestep = None
        if config.timestep_conditioning:
            timestep = np.array([r.decode_timestep], np.float32)
            share = np.float32(r.decoded_noise)
            noise = draw_noise(rng, scaled.shape, self.dtype)
            scaled = (np.float32(1) - share) * scaled + share * noise
        return self.vae.decode(self.tensor(scaled), timestep, rng)


def _pack(latents: np.ndarray) -> np.ndarray:
    """Latents (1, C, T, H, W) to tokens (1, N, C)."""
    channels, *size = latents.shape[1:]
    return latents.transpose(0, 2, 3, 4, 1).reshape(1, math.prod(size), channels)


def _unpack(tokens: np.ndarray, size: tuple[int, int, int]) -> np.ndarray:
    """Tokens (1, N, C) to latents (1, C, T, H, W)."""
    return tokens.reshape(1, *size, tokens.shape[2]).transpose(0, 4, 1, 2, 3)
