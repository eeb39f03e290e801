"""CogVideoX: text-, image- and video-to-video (Yang et al. 2024, arXiv:2408.06072).

Parity with diffusers' CogVideoXPipeline, CogVideoXImageToVideoPipeline and
CogVideoXVideoToVideoPipeline. Latents live in numpy between the transformer's calls: they are small,
and the schedulers' arithmetic is then the same on every device.

Shapes: B batch, T latent frames, C latent channels, H and W height and width of the latents.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vidgen_dist import media, nn
from vidgen_dist.encoders.t5 import T5Encoder
from vidgen_dist.families.cogvideox.autoencoder import AutoencoderKLCogVideoX
from vidgen_dist.families.cogvideox.rules import Geometry, steps_taken
from vidgen_dist.families.cogvideox.transformer import CogVideoXTransformer3DModel, rotary_positions
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
from vidgen_dist.families.common.tasks import IMAGE_TO_VIDEO, VIDEO_TO_VIDEO
from vidgen_dist.families.rules import Rules
from vidgen_dist.parallel.mesh import Mesh
from vidgen_dist.request import RenderRequest
from vidgen_dist.schedulers.ddim import CogVideoXDDIMScheduler
from vidgen_dist.schedulers.dpm import CogVideoXDPMScheduler
from vidgen_dist.weights.tokenizer import tokenize

OFS = 2.0
"""The value that CogVideoX 1.5's image-to-video model was trained with for its `ofs` input."""


@dataclass(frozen=True)
class Start:
    """Where denoising begins.

    Args:
        text: Text hidden states (B, L, D).
        latents: Noise, or a noised clip: float32 (1, T, C, H, W).
        image: The first frame's latents, put beside `latents` as channels: (1, T, C, H, W) or None.
        timesteps: Timesteps to go through, descending.
        padding: Latent frames in front that are cut off before decoding (CogVideoX 1.5).
    """

    text: nn.Tensor
    latents: np.ndarray
    image: np.ndarray | None
    timesteps: np.ndarray
    padding: int


class CogVideoXPipeline(FamilyPipeline[Start]):
    """Renders requests with one CogVideoX checkpoint.

    Args:
        rules: What the checkpoint takes, for the task it was loaded for.
        tokenizer: The checkpoint's T5 tokenizer.
        text_encoder, transformer, vae: Models with their weights loaded.
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
        text_encoder: T5Encoder,
        transformer: CogVideoXTransformer3DModel,
        vae: AutoencoderKLCogVideoX,
        scheduler: CogVideoXDDIMScheduler | CogVideoXDPMScheduler,
        transformer_config: Mapping[str, Any],
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
        self.transformer_config = transformer_config
        self.geometry = Geometry.of(transformer_config, vae_config)

    # Conditioning

    def _encode(self, prompt: str, length: int) -> Encoded:
        """Text hidden states, float32 (1, L, D)."""
        hidden = nn.to_numpy(self.text_encoder(nn.from_numpy(tokenize(self.tokenizer, prompt, length))))
        check_finite(hidden, "encode, text")
        return (hidden,)

    def _start(self, request: RenderRequest, rng: np.random.Generator) -> tuple[Start, int]:
        assert request.num_inference_steps is not None
        (hidden,) = self._encode_texts(request, guiding_prompt(request))
        self.scheduler.set_timesteps(request.num_inference_steps)
        begin = self._start_from_video if self.rules.task == VIDEO_TO_VIDEO else self._start_from_noise
        start = begin(request, self._tensor(hidden), rng)
        return start, len(start.timesteps)

    def _start_from_noise(self, request: RenderRequest, text: nn.Tensor, rng: np.random.Generator) -> Start:
        assert request.num_frames is not None
        latent_frames = self.geometry.latent_frames(request.num_frames)
        padding = self.geometry.padding_frames(latent_frames)
        frames = latent_frames + padding
        image = None
        if self.rules.task == IMAGE_TO_VIDEO:
            image = self._image_latents(request, frames, rng)
        noise = draw_noise(rng, self._latent_shape(request, frames), self.dtype)
        latents = noise * np.float32(self.scheduler.init_noise_sigma)
        return Start(text, latents, image, self.scheduler.timesteps, padding)

    def _start_from_video(self, request: RenderRequest, text: nn.Tensor, rng: np.random.Generator) -> Start:
        pixels = self._pixels(self._clip(request), request)
        clip = self._encode_pixels(pixels, rng) * np.float32(self._scaling_factor)
        noise = draw_noise(rng, clip.shape, self.dtype)
        timesteps = self.scheduler.timesteps[-steps_taken(request) :]
        noised = self.scheduler.add_noise(round_to(clip, self.dtype), noise, timesteps[0])
        latents = round_to(noised, self.dtype) * np.float32(self.scheduler.init_noise_sigma)
        return Start(text, latents, None, timesteps, 0)

    def _clip(self, request: RenderRequest) -> list[Any]:
        """The clip's frames as PIL images, their number checked against what the model can do."""
        clip = media.read_video(request.video)
        self.rules.of_task.check_clip(request, len(clip))
        return clip[: request.num_frames]

    def _image_latents(
        self, request: RenderRequest, latent_frames: int, rng: np.random.Generator
    ) -> np.ndarray:
        """The image's latents as first frame, zeros behind: (1, T, C, H, W)."""
        pixels = self._pixels([media.read_image(request.image)], request)
        first = round_to(self._encode_pixels(pixels, rng), self.dtype)
        # CogVideoX 1.5 was trained with the factor the wrong way round; its config says so.
        inverted = self.vae.config.invert_scale_latents
        first = first * np.float32(1 / self._scaling_factor if inverted else self._scaling_factor)
        latents = np.zeros(self._latent_shape(request, latent_frames), np.float32)
        latents[:, :1] = first
        return round_to(latents, self.dtype)

    def _pixels(self, images: list[Any], request: RenderRequest) -> np.ndarray:
        return to_pixels(images, *_size(request))

    def _encode_pixels(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Pixels (1, 3, F, height, width) to latents drawn from the VAE's posterior, (1, T, C, H, W)."""
        mean, logvar = self.vae.encode(self._tensor(pixels))
        mean, logvar = nn.to_numpy(mean), nn.to_numpy(logvar)
        sample = mean + np.exp(np.float32(0.5) * logvar) * draw_noise(rng, mean.shape, self.dtype)
        check_finite(sample, "encode, pixels")
        return sample.transpose(0, 2, 1, 3, 4)

    def _latent_shape(self, request: RenderRequest, latent_frames: int) -> tuple[int, ...]:
        height, width = _size(request)
        spatial = self.geometry.spatial
        return 1, latent_frames, self.geometry.latent_channels, height // spatial, width // spatial

    @property
    def _scaling_factor(self) -> float:
        return self.vae.config.scaling_factor

    # Denoising

    def _denoise(self, request: RenderRequest, start: Start, steps: Steps) -> np.ndarray:
        """Latents (1, T, C, H, W) after the last step."""
        rotary = self._rotary(request, start.latents.shape[1])
        latents, previous = steps.begin(latents=start.latents, previous=None)
        for i in steps:
            timestep = int(start.timesteps[i])
            predicted = self._predict(request, latents, start, timestep, rotary)
            if is_guided(request):
                predicted = guide(predicted, _guidance(request, timestep, steps.count))
            if isinstance(self.scheduler, CogVideoXDPMScheduler):
                before = int(start.timesteps[i - 1]) if i else None
                latents, previous = self.scheduler.step(
                    predicted, previous, timestep, before, latents, steps.rng
                )
            else:
                latents = self.scheduler.step(
                    predicted, timestep, latents, eta=request.eta or 0.0, rng=steps.rng
                )
            latents = round_to(latents, self.dtype)
            steps.end(i, latents=latents, previous=previous)
        return latents

    def _predict(
        self,
        request: RenderRequest,
        latents: np.ndarray,
        start: Start,
        timestep: int,
        rotary: tuple[nn.Tensor, nn.Tensor] | None,
    ) -> np.ndarray:
        """The transformer's output, float32 (B, T, C, H, W): both halves when guidance is on."""
        inputs = self.scheduler.scale_model_input(latents, timestep)
        if start.image is not None:
            inputs = np.concatenate([inputs, start.image], axis=2)
        batch = start.text.shape[0]
        inputs = np.concatenate([inputs] * batch, axis=0)
        ofs = None
        if self.transformer_config.get("ofs_embed_dim") is not None:
            ofs = nn.from_numpy(np.full((1,), OFS, np.float32))
        predicted = self.transformer(
            self._tensor(inputs),
            start.text,
            nn.from_numpy(np.full((batch,), timestep, np.int64)),
            image_rotary_emb=rotary,
            ofs=ofs,
        )
        if is_guided(request):
            predicted = both_halves(predicted, self.mesh)
        return nn.to_numpy(predicted)

    def _rotary(self, request: RenderRequest, latent_frames: int) -> tuple[nn.Tensor, nn.Tensor] | None:
        if not self.transformer_config.get("use_rotary_positional_embeddings", False):
            return None
        cos, sin = rotary_positions(
            self.transformer_config, *_size(request), latent_frames, self.geometry.spatial
        )
        return nn.from_numpy(cos), nn.from_numpy(sin)

    def _decode(
        self, _request: RenderRequest, start: Start, latents: np.ndarray, _rng: np.random.Generator
    ) -> np.ndarray:
        """Latents (1, T, C, H, W) to frames (F, height, width, 3) in [0, 1]."""
        latents = latents[:, start.padding :]
        scaled = latents.transpose(0, 2, 1, 3, 4) * np.float32(1 / self._scaling_factor)
        video = self.vae.decode(self._tensor(scaled))
        return to_frames(nn.to_numpy(video), self.mesh.gang)


def _size(request: RenderRequest) -> tuple[int, int]:
    """Height and width of a request whose defaults are filled in."""
    assert request.height is not None
    assert request.width is not None
    return request.height, request.width


def _guidance(request: RenderRequest, timestep: int, num_inference_steps: int) -> float:
    """The guidance weight of one step.

    With `use_dynamic_cfg` it follows diffusers' cosine, which mixes a timestep (0 to 999) with a number
    of steps; checkpoints are used with it as it stands.
    """
    assert request.guidance_scale is not None
    if not request.use_dynamic_cfg:
        return request.guidance_scale
    share = ((num_inference_steps - timestep) / num_inference_steps) ** 5.0
    return 1 + request.guidance_scale * (1 - math.cos(math.pi * share)) / 2
