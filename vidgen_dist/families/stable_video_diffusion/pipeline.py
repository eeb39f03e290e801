"""Stable Video Diffusion: animates an image (Blattmann et al. 2023, arXiv:2311.15127).

Parity with diffusers' StableVideoDiffusionPipeline.

Shapes: B batch, F frames, C latent channels, H and W height and width of the latents, X width of the image's
embedding.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from PIL import Image

from vidgen_dist import media, nn
from vidgen_dist.encoders.clip_vision import CLIPVisionModelWithProjection, normalised
from vidgen_dist.encoders.config import ClipImageProcessorConfig
from vidgen_dist.families.common.guidance import Halves, Weight, constant
from vidgen_dist.families.common.pipeline import DiffusionPipeline, Start
from vidgen_dist.families.common.rendering import (
    check_finite,
    draw_noise,
    round_to,
    starting_noise,
    to_pixels,
)
from vidgen_dist.families.stable_video_diffusion.autoencoder import AutoencoderKLTemporalDecoder
from vidgen_dist.families.stable_video_diffusion.config import IMAGE_SIDE, StableVideoDiffusionConfigs
from vidgen_dist.families.stable_video_diffusion.resize import resized
from vidgen_dist.families.stable_video_diffusion.rules import StableVideoDiffusionRequest
from vidgen_dist.families.stable_video_diffusion.unet import UNetSpatioTemporalConditionModel
from vidgen_dist.schedulers.euler import EulerDiscreteScheduler


@dataclass(frozen=True)
class ImageCondition:
    """What the video is conditioned on.

    Args:
        embedding: The image's embedding, (B, 1, X).
        latents: The image's latents, the same for every frame, (B, 1, C, H, W); None before they are made.
    """

    embedding: np.ndarray
    latents: np.ndarray | None = None


class StableVideoDiffusionPipeline(
    DiffusionPipeline[StableVideoDiffusionRequest, ImageCondition, Start[ImageCondition]],
):
    """Renders requests with one checkpoint."""

    configs: StableVideoDiffusionConfigs
    feature_extractor: ClipImageProcessorConfig
    image_encoder: CLIPVisionModelWithProjection
    unet: UNetSpatioTemporalConditionModel
    vae: AutoencoderKLTemporalDecoder
    scheduler: EulerDiscreteScheduler

    # Conditioning

    def encode(self, r: StableVideoDiffusionRequest) -> Halves[ImageCondition]:
        seen = resized(_colours(media.read_image(r.image)), IMAGE_SIDE)
        pixels = self.tensor(normalised(seen, self.configs.feature_extractor))
        embedding = nn.to_numpy(self.image_encoder(pixels))[:, None]
        check_finite(embedding, "encode, image")
        return Halves(
            ImageCondition(embedding), ImageCondition(np.zeros_like(embedding)) if r.is_guided else None
        )

    def prepare(
        self, r: StableVideoDiffusionRequest, halves: Halves[ImageCondition], rng: np.random.Generator
    ) -> Start[ImageCondition]:
        # The image's noise is drawn before that of the latents.
        image = self._image_latents(r, rng)
        schedule = self.scheduler.schedule(r.num_inference_steps)
        shape = (1, *self.configs.latent_size(r.num_frames, r.height, r.width))
        return Start(
            latents=starting_noise(rng, shape, schedule, self.dtype),
            halves=_with_latents(halves, image),
            schedule=schedule,
            guidance=constant(weights(r) if r.is_guided else None, len(schedule)),
            carried=self.dtype,
        )

    def _image_latents(self, r: StableVideoDiffusionRequest, rng: np.random.Generator) -> np.ndarray:
        """The mode of the noised image's latents, unscaled: (1, 1, C, H, W)."""
        pixels = to_pixels([media.read_image(r.image)], r.height, r.width)
        noise = draw_noise(rng, (1, 3, r.height, r.width), "float32")[:, :, None]
        mean, _ = self.vae.encode(nn.from_numpy(pixels + np.float32(r.noise_aug_strength) * noise))
        latents = round_to(nn.to_numpy(mean), self.dtype).transpose(0, 2, 1, 3, 4)
        check_finite(latents, "encode, pixels")
        return latents

    # Denoising

    def predict(
        self,
        r: StableVideoDiffusionRequest,
        start: Start[ImageCondition],
        latents: np.ndarray,
        condition: ImageCondition,
        i: int,
    ) -> nn.Tensor:
        """The UNet's output (B, F, C, H, W)."""
        batch, frames = latents.shape[:2]
        assert condition.latents is not None
        beside = np.repeat(condition.latents, frames, axis=1)
        # The model was trained with one frame per second less.
        told = np.array([[r.fps - 1, r.motion_bucket_id, r.noise_aug_strength]], np.float32)
        return self.unet(
            self.tensor(np.concatenate([latents, beside], axis=2)),
            np.full((batch,), start.schedule.timesteps[i], np.float32),
            self.tensor(condition.embedding),
            np.repeat(round_to(told, self.dtype), batch, axis=0),
        )

    # Decoding

    def decode(
        self,
        r: StableVideoDiffusionRequest,
        start: Start[ImageCondition],
        latents: np.ndarray,
        rng: np.random.Generator,
    ) -> nn.Tensor:
        """Frames of latents (1, F, C, H, W)."""
        scaled = latents.transpose(0, 2, 1, 3, 4) * np.float32(1 / self.configs.vae.scaling_factor)
        return self.vae.decode(self.tensor(scaled), r.decode_chunk_size)


def weights(r: StableVideoDiffusionRequest) -> Weight:
    """Each frame's weight of guidance, (1, F, 1, 1, 1)."""
    by_frame = np.linspace(r.min_guidance_scale, r.max_guidance_scale, r.num_frames, dtype=np.float32)
    return by_frame.reshape(1, -1, 1, 1, 1)


def _with_latents(halves: Halves[ImageCondition], latents: np.ndarray) -> Halves[ImageCondition]:
    """The halves with the image's latents; these are zeros in the unconditional half."""
    conditional = dataclasses.replace(halves.conditional, latents=latents)
    if halves.unconditional is None:
        return Halves(conditional)
    return Halves(conditional, dataclasses.replace(halves.unconditional, latents=np.zeros_like(latents)))


def _colours(image: Image.Image) -> np.ndarray:
    """float32 (H, W, 3) in [0, 1]."""
    return np.asarray(image, np.float32) / np.float32(255)
