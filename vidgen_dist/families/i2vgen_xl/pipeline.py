"""I2VGen-XL: image-to-video with a prompt (Zhang et al. 2023, arXiv:2311.04145). Parity with diffusers'
I2VGenXLPipeline.

The reference samples the image's posterior without the request's generator. Here it is sampled with the row's
generator, before the noise, so that a seed always gives the same video.

Shapes: B batch, F frames, H and W height and width of the latents, L text tokens, X their width.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from vidgen_dist import media, nn
from vidgen_dist.encoders.clip import CLIPTextEncoder
from vidgen_dist.encoders.clip_vision import CLIPVisionModelWithProjection, normalised
from vidgen_dist.families.common.autoencoder_kl import AutoencoderKL
from vidgen_dist.families.common.guidance import Halves, constant
from vidgen_dist.families.common.pipeline import Start
from vidgen_dist.families.common.prompts import PromptedPipeline, clip_hidden
from vidgen_dist.families.common.rendering import check_finite, round_to, starting_noise, to_pixels
from vidgen_dist.families.i2vgen_xl.config import I2VGenXLConfigs
from vidgen_dist.families.i2vgen_xl.rules import I2VGenXLRequest
from vidgen_dist.families.i2vgen_xl.unet import I2VGenXLUNet
from vidgen_dist.schedulers.discrete import DiscreteScheduler
from vidgen_dist.schedulers.schedule import Memory


@dataclass(frozen=True)
class TextImageCondition:
    """What the frames of a sample attend to.

    Args:
        hidden: Text hidden states (B, L, X).
        image: The image's CLIP vector (B, X); zeros without a condition.
    """

    hidden: np.ndarray
    image: np.ndarray


@dataclass(frozen=True, kw_only=True)
class ImageStart(Start[TextImageCondition]):
    """Where denoising begins.

    Args:
        image: The image's latents in the first frame; in every later frame its position in the clip, from
            above 0 to 1: (1, 4, F, H, W).
    """

    image: np.ndarray


class I2VGenXLPipeline(PromptedPipeline[I2VGenXLRequest, TextImageCondition, ImageStart]):
    """Renders requests with one I2VGen-XL checkpoint."""

    configs: I2VGenXLConfigs
    tokenizer: Any
    text_encoder: CLIPTextEncoder
    image_encoder: CLIPVisionModelWithProjection
    unet: I2VGenXLUNet
    vae: AutoencoderKL
    scheduler: DiscreteScheduler[Any]

    # Conditioning

    def encode(self, r: I2VGenXLRequest) -> Halves[TextImageCondition]:
        return self.encode_texts(r, r.prompt, r.negative_prompt if r.is_guided else None, r.clip_skip)

    def encode_text(self, r: I2VGenXLRequest, prompt: str) -> TextImageCondition:
        hidden = clip_hidden(self.tokenizer, self.text_encoder, prompt, r.clip_skip)
        return TextImageCondition(hidden, np.zeros((1, self.configs.unet.cross_attention_dim), np.float32))

    def prepare(
        self, r: I2VGenXLRequest, halves: Halves[TextImageCondition], rng: np.random.Generator
    ) -> ImageStart:
        image = media.read_image(r.image)
        seen = dataclasses.replace(halves.conditional, image=self._image_vector(r, image))
        # The image's posterior is sampled before the noise is drawn.
        latents = self._image_latents(r, image, rng)
        schedule = self.scheduler.schedule(r.num_inference_steps, eta=r.eta)
        size = self.configs.latent_size(r.num_frames, r.height, r.width)
        return ImageStart(
            latents=starting_noise(rng, (1, *size), schedule, self.dtype),
            halves=Halves(seen, halves.unconditional),
            schedule=schedule,
            guidance=constant(r.guidance_scale if r.is_guided else None, len(schedule)),
            carried=self.dtype,
            image=latents,
        )

    def _image_vector(self, r: I2VGenXLRequest, image: Image.Image) -> np.ndarray:
        """The image's CLIP vector, (1, X)."""
        processor = self.configs.feature_extractor
        rows, columns = processor.crop
        # The reference makes it as wide as the video, and square.
        square = cropped(image, r.width, r.width).resize((columns, rows), Image.Resampling.BILINEAR)
        pixels = np.asarray(square, np.float32) / np.float32(255)
        vector = nn.to_numpy(self.image_encoder(self.tensor(normalised(pixels, processor))))
        check_finite(vector, "encode, image")
        return vector

    def _image_latents(self, r: I2VGenXLRequest, image: Image.Image, rng: np.random.Generator) -> np.ndarray:
        """The image's latents and the frames' positions, as in `ImageStart`."""
        pixels = to_pixels([cropped(image, r.width, r.height)], r.height, r.width)
        sample = self.sample_posterior(*self.vae.encode(self.tensor(pixels)), rng)
        first = round_to(sample, self.dtype) * np.float32(self.configs.vae.scaling_factor)
        channels, frames, rows, columns = self.configs.latent_size(r.num_frames, r.height, r.width)
        latents = np.empty((1, channels, frames, rows, columns), np.float32)
        latents[:] = (np.arange(frames) / max(1, frames - 1)).reshape(1, 1, frames, 1, 1)
        latents[:, :, 0] = first.reshape(1, channels, rows, columns)
        return latents

    # Denoising

    def predict(
        self,
        r: I2VGenXLRequest,
        start: ImageStart,
        latents: np.ndarray,
        condition: TextImageCondition,
        i: int,
    ) -> nn.Tensor:
        """The UNet's output (B, 4, F, H, W)."""
        batch = len(latents)
        return self.unet(
            self.tensor(latents),
            np.full(batch, start.schedule.timesteps[i]),
            np.full(batch, r.target_fps),
            self.tensor(condition.hidden),
            self.tensor(np.repeat(start.image, batch, axis=0)),
            self.tensor(condition.image),
        )

    def step(
        self,
        r: I2VGenXLRequest,
        start: ImageStart,
        prediction: np.ndarray,
        latents: np.ndarray,
        memory: Memory,
        i: int,
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, Memory]:
        # As in the reference: the sampler sees each frame as a sample, and draws noise frame by frame.
        stepped, memory = start.schedule.step(_images(prediction), i, _images(latents), memory, rng)
        return np.ascontiguousarray(stepped.transpose(1, 0, 2, 3)[None]), memory

    # Decoding

    def decode(
        self, r: I2VGenXLRequest, start: ImageStart, latents: np.ndarray, rng: np.random.Generator
    ) -> nn.Tensor:
        """Frames of latents (1, 4, F, H, W)."""
        scaled = latents * np.float32(1 / self.configs.vae.scaling_factor)
        return self.vae.decode(self.tensor(scaled), r.decode_chunk_size)


def _images(latents: np.ndarray) -> np.ndarray:
    """(1, C, F, H, W) to (F, C, H, W)."""
    return np.ascontiguousarray(latents[0].transpose(1, 0, 2, 3))


def cropped(image: Image.Image, width: int, height: int) -> Image.Image:
    """The middle of an image, scaled to fill width and height, as the reference does it.

    If the reference's division gives slightly less than a whole number, the image is a pixel too small, and a
    black edge remains.

    Raises:
        MediaError: Scaled like this, a very long image has more than `media.MAX_IMAGE_PIXELS`.
    """
    scale = min(image.width / width, image.height / height)
    columns, rows = round(image.width // scale), round(image.height // scale)
    if columns * rows > media.MAX_IMAGE_PIXELS:
        raise media.MediaError(
            f"image: {image.width}x{image.height} pixels must be scaled to {columns}x{rows} to fill "
            f"{width}x{height}; allowed: up to {media.MAX_IMAGE_PIXELS:,} pixels"
        )
    scaled = image.resize((columns, rows), Image.Resampling.BOX)
    left, top = (columns - width) // 2, (rows - height) // 2
    return scaled.crop((left, top, left + width, top + height))
