"""LTX-Video: text- and image-to-video (HaCohen et al. 2024, arXiv:2501.00103).

Parity with diffusers' LTXPipeline and LTXImageToVideoPipeline. Latents live in numpy between the
transformer's calls, in float32 whatever the models compute in, and as tokens: each is one latent pixel.

Shapes: B batch, N tokens, C latent channels, T latent frames, H and W height and width of the latents.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vidgen_dist import media, nn
from vidgen_dist.encoders.t5 import T5Encoder
from vidgen_dist.families.common.guidance import both_halves, guide, guiding_prompt, is_guided
from vidgen_dist.families.common.pipeline import FamilyPipeline
from vidgen_dist.families.common.prompts import Encoded
from vidgen_dist.families.common.rendering import (
    Steps,
    check_finite,
    draw_noise,
    round_to,
    to_frames,
    to_pixels,
)
from vidgen_dist.families.common.tasks import IMAGE_TO_VIDEO
from vidgen_dist.families.ltx.autoencoder import AutoencoderKLLTXVideo
from vidgen_dist.families.ltx.rules import Geometry
from vidgen_dist.families.ltx.transformer import LTXVideoTransformer3DModel
from vidgen_dist.families.rules import Rules
from vidgen_dist.parallel.mesh import Mesh
from vidgen_dist.request import RenderRequest
from vidgen_dist.schedulers.flow_match import FlowMatchEulerDiscreteScheduler
from vidgen_dist.weights.tokenizer import tokenize_with_mask


@dataclass(frozen=True)
class Text:
    """Encoded prompts of this rank's halves of guidance.

    Args:
        hidden: (B, L, D).
        mask: (B, L) bool, true of the prompts' own tokens.
    """

    hidden: nn.Tensor
    mask: np.ndarray


@dataclass(frozen=True)
class Start:
    """Where denoising begins.

    Args:
        text: Encoded prompts.
        tokens: float32 (1, N, C): noise, the first of them an image's if there is one.
        size: Latent frames, rows and columns.
        given: How many of the tokens are the image's. They are told that their time is over, and stay.
    """

    text: Text
    tokens: np.ndarray
    size: tuple[int, int, int]
    given: int


class LTXPipeline(FamilyPipeline[Start]):
    """Renders requests with one LTX-Video checkpoint.

    Args:
        rules: What the checkpoint takes, for the task it was loaded for.
        tokenizer: The checkpoint's T5 tokenizer.
        text_encoder, transformer, vae: Models with their weights loaded.
        scheduler: The checkpoint's noise schedule.
        vae_config: `config.json` of the VAE, as published.
        dtype: Name of the models' dtype.
        mesh: The gang that renders together. All ranks render the same requests in the same order.
    """

    def __init__(
        self,
        *,
        rules: Rules,
        tokenizer: Any,
        text_encoder: T5Encoder,
        transformer: LTXVideoTransformer3DModel,
        vae: AutoencoderKLLTXVideo,
        scheduler: FlowMatchEulerDiscreteScheduler,
        vae_config: Mapping[str, Any],
        dtype: str,
        mesh: Mesh | None = None,
    ) -> None:
        super().__init__(rules, dtype, mesh)
        self.tokenizer = tokenizer
        self.text_encoder = text_encoder
        self.transformer = transformer
        self.vae = vae
        self.scheduler = scheduler
        self.geometry = Geometry.of(vae_config)

    # Conditioning

    def _encode(self, prompt: str, length: int) -> Encoded:
        """Text hidden states, float32 (1, L, D), and which of them are the prompt's own, (1, L)."""
        ids, mask = tokenize_with_mask(self.tokenizer, prompt, length)
        # Padding is attended to here: it is left out in the transformer alone.
        hidden = nn.to_numpy(self.text_encoder(nn.from_numpy(ids)))
        check_finite(hidden, "encode, text")
        return hidden, mask

    def _start(self, request: RenderRequest, rng: np.random.Generator) -> tuple[Start, int]:
        assert request.num_frames is not None
        assert request.num_inference_steps is not None
        hidden, mask = self._encode_texts(request, guiding_prompt(request))
        text = Text(self._tensor(hidden), mask)
        height, width = _size(request)
        frames, spatial = self.geometry.latent_frames(request.num_frames), self.geometry.spatial
        size = (frames, height // spatial, width // spatial)
        steps = request.num_inference_steps
        self.scheduler.set_timesteps(
            sigmas=np.linspace(1.0, 1 / steps, steps), mu=self.scheduler.mu(math.prod(size))
        )
        image = None
        if self.rules.task == IMAGE_TO_VIDEO:
            image = self._image_latents(request, rng)
        latents = draw_noise(rng, (1, self.geometry.latent_channels, *size), "float32")
        if image is None:
            return Start(text, _pack(latents), size, 0), steps
        latents[:, :, :1] = image
        return Start(text, _pack(latents), size, size[1] * size[2]), steps

    def _image_latents(self, request: RenderRequest, rng: np.random.Generator) -> np.ndarray:
        """The image's latents as the transformer knows them, (1, C, 1, H, W)."""
        pixels = to_pixels([media.read_image(request.image)], *_size(request))
        mean, logvar = (nn.to_numpy(moment) for moment in self.vae.encode(self._tensor(pixels)))
        sample = mean + np.exp(np.float32(0.5) * logvar) * draw_noise(rng, mean.shape, self.dtype)
        check_finite(sample, "encode, pixels")
        latents_mean, latents_std = self._statistics()
        return (round_to(sample, self.dtype) - latents_mean) / latents_std

    def _statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the VAE's latents, (C, 1, 1, 1)."""
        mean, std = (nn.to_numpy(value) for value in (self.vae.latents_mean, self.vae.latents_std))
        return mean.reshape(-1, 1, 1, 1), std.reshape(-1, 1, 1, 1)

    # Denoising

    def _denoise(self, request: RenderRequest, start: Start, steps: Steps) -> np.ndarray:
        """Tokens (1, N, C) after the last step."""
        assert request.guidance_scale is not None
        assert request.guidance_rescale is not None
        (tokens,) = steps.begin(latents=start.tokens)
        for i in steps:
            predicted = self._predict(request, tokens, start, self.scheduler.timesteps[i])
            if is_guided(request):
                predicted = guide(predicted, request.guidance_scale, request.guidance_rescale)
            if start.given:
                tokens = self._step_beside_image(predicted, i, tokens, start, steps.rng)
            else:
                tokens = self.scheduler.step(predicted, i, tokens, steps.rng)
            steps.end(i, latents=tokens)
        return tokens

    def _step_beside_image(
        self, predicted: np.ndarray, index: int, tokens: np.ndarray, start: Start, rng: np.random.Generator
    ) -> np.ndarray:
        """Tokens (1, N, C) one step on, the image's as they are."""
        frames, height, width = start.size
        given, noisy = np.split(tokens, [start.given], axis=1)
        # As latents: where the scheduler draws noise, the reference draws it in their order.
        size = (frames - 1, height, width)
        direction = _unpack(predicted[:, start.given :], size)
        stepped = self.scheduler.step(direction, index, _unpack(noisy, size), rng)
        return np.concatenate([given, _pack(stepped)], axis=1)

    def _predict(
        self, request: RenderRequest, tokens: np.ndarray, start: Start, timestep: np.float32
    ) -> np.ndarray:
        """The transformer's output, float32 (B, N, C): both halves when guidance is on."""
        assert request.frame_rate is not None
        batch = len(start.text.mask)
        times = np.full((batch,), timestep, np.float32)
        if start.given:
            times = np.repeat(times[:, None], tokens.shape[1], axis=1)
            times[:, : start.given] = 0
        frames, height, width = start.size
        spatial = self.geometry.spatial
        predicted = self.transformer(
            self._tensor(np.concatenate([tokens] * batch)),
            start.text.hidden,
            times,
            start.text.mask,
            frames,
            height,
            width,
            rope_interpolation_scale=(self.geometry.temporal / request.frame_rate, spatial, spatial),
        )
        if is_guided(request):
            predicted = both_halves(predicted, self.mesh)
        return nn.to_numpy(predicted)

    # Decoding

    def _decode(
        self, request: RenderRequest, start: Start, latents: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Latents as tokens (1, N, C) to frames (F, height, width, 3) in [0, 1]."""
        mean, std = self._statistics()
        scale = np.float32(self.vae.config.scaling_factor)
        latents = round_to(_unpack(latents, start.size) * std / scale + mean, self.dtype)
        timestep = None
        if self.vae.config.timestep_conditioning:
            assert request.decode_timestep is not None
            timestep = np.array([request.decode_timestep], np.float32)
            asked = request.decode_noise_scale
            share = np.float32(request.decode_timestep if asked is None else asked)
            noise = draw_noise(rng, latents.shape, self.dtype)
            latents = (np.float32(1) - share) * latents + share * noise
        video = self.vae.decode(self._tensor(latents), timestep, rng)
        return to_frames(nn.to_numpy(video), self.mesh.gang)


def _size(request: RenderRequest) -> tuple[int, int]:
    """Height and width of a request whose defaults are filled in."""
    assert request.height is not None
    assert request.width is not None
    return request.height, request.width


def _pack(latents: np.ndarray) -> np.ndarray:
    """Latents (1, C, T, H, W) to tokens (1, N, C)."""
    channels, *size = latents.shape[1:]
    return latents.transpose(0, 2, 3, 4, 1).reshape(1, math.prod(size), channels)


def _unpack(tokens: np.ndarray, size: tuple[int, int, int]) -> np.ndarray:
    """Tokens (1, N, C) to latents (1, C, T, H, W)."""
    return tokens.reshape(1, *size, tokens.shape[2]).transpose(0, 4, 1, 2, 3)
