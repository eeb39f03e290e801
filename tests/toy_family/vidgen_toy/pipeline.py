"""The toy's pipeline: an image to a video, by two networks of which the second takes over at a step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from vidgen_toy.config import ToyConfigs
from vidgen_toy.networks import Autoencoder, Denoiser
from vidgen_toy.rules import ToyRequest
from vidgen_toy.sampler import TwoStepScheduler

from vidgen_dist import media, nn
from vidgen_dist.families.common.guidance import Guidance, Halves
from vidgen_dist.families.common.pipeline import DiffusionPipeline, Start
from vidgen_dist.families.common.rendering import draw_noise, round_to, to_pixels


@dataclass(frozen=True)
class Condition:
    """What the video is conditioned on: the image's latents (B, 1, C, H, W)."""

    latents: np.ndarray


class ToyPipeline(DiffusionPipeline[ToyRequest, Condition, Start[Condition]]):
    """Renders requests with one checkpoint."""

    configs: ToyConfigs
    denoiser: Denoiser
    denoiser_2: Denoiser
    vae: Autoencoder
    scheduler: TwoStepScheduler

    def encode(self, r: ToyRequest) -> Halves[Condition]:
        mean, _ = self.vae.encode(self.tensor(to_pixels([media.read_image(r.image)], r.height, r.width)))
        latents = nn.to_numpy(mean).transpose(0, 2, 1, 3, 4)
        return Halves(Condition(latents), Condition(np.zeros_like(latents)))

    def prepare(self, r: ToyRequest, halves: Halves[Condition], rng: np.random.Generator) -> Start[Condition]:
        _, _, channels, height, width = halves.conditional.latents.shape
        noise = draw_noise(rng, (1, r.num_frames, channels, height, width), self.dtype)
        by_frame = np.linspace(r.first_guidance_scale, r.guidance_scale, r.num_frames, dtype=np.float32)
        weight = by_frame[None, :, None, None, None] if r.is_guided else None
        return Start(
            latents=noise,
            halves=halves,
            schedule=self.scheduler.schedule(r.num_inference_steps),
            guidance=Guidance([weight] * r.num_inference_steps),
            carried=self.dtype,
            # The last prediction but one serves twice, where there are enough of them.
            left_out=frozenset({r.num_inference_steps - 1} if r.num_inference_steps > 3 else ()),
        )

    def predict(
        self, r: ToyRequest, start: Start[Condition], latents: np.ndarray, condition: Condition, i: int
    ) -> nn.Tensor:
        sigma = start.schedule.timesteps[i]
        network = self.denoiser if sigma >= self.scheduler.config.switch_at else self.denoiser_2
        return network(self.tensor(latents), self.tensor(condition.latents), sigma)

    def before_step(
        self, r: ToyRequest, start: Start[Condition], latents: np.ndarray, i: int, rng: np.random.Generator
    ) -> np.ndarray:
        """The first frame is the image's, as noisy as the step wants it."""
        sigma = np.float32(start.schedule.timesteps[i])
        given = start.halves.conditional.latents
        noisy = sigma * draw_noise(rng, given.shape, self.dtype) + (1 - sigma) * given
        return np.concatenate([round_to(noisy, self.dtype), latents[:, 1:]], axis=1)

    def decode(
        self, r: ToyRequest, start: Start[Condition], latents: np.ndarray, rng: np.random.Generator
    ) -> nn.Tensor:
        return self.vae.decode(self.tensor(latents.transpose(0, 2, 1, 3, 4)))
