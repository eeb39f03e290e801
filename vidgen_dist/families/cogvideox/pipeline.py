"""CogVideoX: text-, image- and video-to-video (Yang et al. 2024, arXiv:2408.06072).

Parity with diffusers' CogVideoXPipeline, CogVideoXImageToVideoPipeline and
CogVideoXVideoToVideoPipeline.

Shapes: B batch, T latent frames, C latent channels, H and W height and width of the latents, L tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from vidgen_dist import media, nn
from vidgen_dist.encoders.t5 import T5Encoder
from vidgen_dist.families.cogvideox.autoencoder import AutoencoderKLCogVideoX
from vidgen_dist.families.cogvideox.config import CogVideoXConfigs
from vidgen_dist.families.cogvideox.rules import (
    CogVideoXRequest,
    ImageToVideoRequest,
    TextToVideoRequest,
    VideoToVideoRequest,
)
from vidgen_dist.families.cogvideox.transformer import CogVideoXTransformer3DModel, rotary_positions
from vidgen_dist.families.common.guidance import Guidance, Halves, constant
from vidgen_dist.families.common.pipeline import Start
from vidgen_dist.families.common.prompts import PromptedPipeline
from vidgen_dist.families.common.rendering import check_finite, draw_noise, round_to, to_pixels
from vidgen_dist.schedulers.cogvideox import CogVideoXSchedule, CogVideoXScheduler
from vidgen_dist.weights.tokenizer import tokenize

OFS = 2.0
"""The value that CogVideoX 1.5's image-to-video model was trained with for its `ofs` input."""

Q = TypeVar("Q", bound=CogVideoXRequest)


@dataclass(frozen=True)
class TextCondition:
    """An encoded prompt.

    Args:
        hidden: Text hidden states (B, L, D).
    """

    hidden: np.ndarray


@dataclass(frozen=True, kw_only=True)
class CogVideoXStart(Start[TextCondition]):
    """Where denoising of latents (1, T, C, H, W) begins.

    Args:
        rotary: (cos, sin) of `rotary_positions`; None for a model without them.
        image: The first frame's latents, which are appended to the noisy ones as channels: (1, T, C, H, W) or
            None.
        padding: Latent frames in front that are removed before decoding (CogVideoX 1.5).
    """

    rotary: tuple[np.ndarray, np.ndarray] | None
    image: np.ndarray | None = None
    padding: int = 0


class CogVideoXPipeline(PromptedPipeline[Q, TextCondition, CogVideoXStart]):
    """Renders requests with one CogVideoX checkpoint; a subclass prepares denoising for its task."""

    configs: CogVideoXConfigs
    tokenizer: Any
    text_encoder: T5Encoder
    transformer: CogVideoXTransformer3DModel
    vae: AutoencoderKLCogVideoX
    scheduler: CogVideoXScheduler

    def encode(self, r: Q) -> Halves[TextCondition]:
        negative = r.negative_prompt if r.is_guided else None
        return self.encode_texts(r, r.prompt, negative, r.max_sequence_length)

    def encode_text(self, r: Q, prompt: str) -> TextCondition:
        hidden = nn.to_numpy(self.text_encoder(tokenize(self.tokenizer, prompt, r.max_sequence_length)))
        check_finite(hidden, "encode, text")
        return TextCondition(hidden)

    def predict(
        self, r: Q, start: CogVideoXStart, latents: np.ndarray, condition: TextCondition, i: int
    ) -> nn.Tensor:
        """The transformer's output (B, T, C, H, W)."""
        batch = len(latents)
        if start.image is not None:
            latents = np.concatenate([latents, np.repeat(start.image, batch, axis=0)], axis=2)
        has_ofs = self.configs.transformer.ofs_embed_dim is not None
        return self.transformer(
            self.tensor(latents),
            self.tensor(condition.hidden),
            np.full((batch,), start.schedule.timesteps[i], np.int64),
            image_rotary_emb=start.rotary,
            ofs=np.full((1,), OFS, np.float32) if has_ofs else None,
        )

    def decode(self, r: Q, start: CogVideoXStart, latents: np.ndarray, rng: np.random.Generator) -> nn.Tensor:
        """Frames of latents (1, T, C, H, W)."""
        shown = latents[:, start.padding :].transpose(0, 2, 1, 3, 4)
        return self.vae.decode(self.tensor(shown * np.float32(1 / self.configs.vae.scaling_factor)))

    # For the tasks

    def start_from_noise(
        self,
        r: TextToVideoRequest | ImageToVideoRequest,
        halves: Halves[TextCondition],
        rng: np.random.Generator,
        image: np.ndarray | None = None,
    ) -> CogVideoXStart:
        """Where denoising of a whole video begins; `image` as in `CogVideoXStart`."""
        return self.start(
            r,
            halves,
            draw_noise(rng, self.latent_shape(r), self.dtype),
            self.scheduler.schedule(r.num_inference_steps),
            image=image,
            padding=self.configs.transformer.padding_frames(self.configs.vae.latent_frames(r.num_frames)),
        )

    def start(
        self,
        r: CogVideoXRequest,
        halves: Halves[TextCondition],
        latents: np.ndarray,
        schedule: CogVideoXSchedule,
        *,
        image: np.ndarray | None = None,
        padding: int = 0,
    ) -> CogVideoXStart:
        """Where denoising of latents begins; the arguments are as in `CogVideoXStart`."""
        return CogVideoXStart(
            latents=latents * np.float32(schedule.init_noise_sigma),
            halves=halves,
            schedule=schedule,
            guidance=guidance(r, schedule),
            carried=self.dtype,
            rotary=self._rotary(r, latents.shape[1]),
            image=image,
            padding=padding,
        )

    def _rotary(self, r: CogVideoXRequest, latent_frames: int) -> tuple[np.ndarray, np.ndarray] | None:
        config = self.configs.transformer
        if not config.use_rotary_positional_embeddings:
            return None
        spatial = self.configs.vae.spatial_compression_ratio
        return rotary_positions(config, r.height, r.width, latent_frames, spatial)

    def latent_shape(self, r: TextToVideoRequest | ImageToVideoRequest) -> tuple[int, ...]:
        """(1, T, C, H, W) of the latents that are denoised."""
        return (1, *self.configs.latent_size(r.num_frames, r.height, r.width))

    def encode_pixels(
        self, r: CogVideoXRequest, images: Sequence[Image.Image], rng: np.random.Generator
    ) -> np.ndarray:
        """Latents of images, sampled from the VAE's posterior.

        Args:
            r: The request, whose height and width the images are resized to.
            images: The frames, in order.
            rng: Normal noise is drawn from it once, in the shape of the VAE's latents, (1, C, T, H, W).

        Returns:
            float32 (1, T, C, H, W), not scaled for the transformer.

        Raises:
            NumericalError: Values are NaN or infinite.
        """
        mean, logvar = self.vae.encode(self.tensor(to_pixels(images, r.height, r.width)))
        return self.sample_posterior(mean, logvar, rng).transpose(0, 2, 1, 3, 4)


class TextToVideoPipeline(CogVideoXPipeline[TextToVideoRequest]):
    """Videos from a prompt."""

    def prepare(
        self, r: TextToVideoRequest, halves: Halves[TextCondition], rng: np.random.Generator
    ) -> CogVideoXStart:
        return self.start_from_noise(r, halves, rng)


class ImageToVideoPipeline(CogVideoXPipeline[ImageToVideoRequest]):
    """Videos that begin with an image."""

    def prepare(
        self, r: ImageToVideoRequest, halves: Halves[TextCondition], rng: np.random.Generator
    ) -> CogVideoXStart:
        # Before the noise: the posterior is sampled first.
        image = self._image_latents(r, rng)
        return self.start_from_noise(r, halves, rng, image)

    def _image_latents(self, r: ImageToVideoRequest, rng: np.random.Generator) -> np.ndarray:
        """The image's latents as the first frame, then zeros: (1, T, C, H, W)."""
        first = round_to(self.encode_pixels(r, [media.read_image(r.image)], rng), self.dtype)
        latents = np.zeros(self.latent_shape(r), np.float32)
        latents[:, :1] = first * np.float32(self.configs.vae.image_scaling_factor)
        return round_to(latents, self.dtype)


class VideoToVideoPipeline(CogVideoXPipeline[VideoToVideoRequest]):
    """Clips that are noised and denoised."""

    def prepare(
        self, r: VideoToVideoRequest, halves: Halves[TextCondition], rng: np.random.Generator
    ) -> CogVideoXStart:
        latents = self.encode_pixels(r, self._clip(r), rng) * np.float32(self.configs.vae.scaling_factor)
        noise = draw_noise(rng, latents.shape, self.dtype)
        schedule = self.scheduler.schedule(r.num_inference_steps).skip(r.num_inference_steps - r.steps)
        noised = schedule.add_noise(round_to(latents, self.dtype), noise)
        return self.start(r, halves, round_to(noised, self.dtype), schedule)

    def _clip(self, r: VideoToVideoRequest) -> Sequence[Image.Image]:
        """The clip's frames, after a check of their number."""
        clip = media.read_video(r.video)
        self.rules.of_task.check_clip(r, len(clip))
        return clip[: r.num_frames]


def guidance(r: CogVideoXRequest, schedule: CogVideoXSchedule) -> Guidance:
    """The guidance of the steps.

    With `use_dynamic_cfg` the weight follows diffusers' cosine, which mixes a timestep (0 to 999) with a
    number of steps; checkpoints are used with it as it is.
    """
    steps = len(schedule)
    if not (r.is_guided and r.use_dynamic_cfg):
        return constant(r.guidance_scale if r.is_guided else None, steps)
    shares = [((steps - timestep) / steps) ** 5.0 for timestep in schedule.timesteps.tolist()]
    return Guidance([1 + r.guidance_scale * (1 - math.cos(math.pi * share)) / 2 for share in shares])
