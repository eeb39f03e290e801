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
from vidgen_dist.models.autoencoders.mochi import AutoencoderKLMochi
from vidgen_dist.models.encoders.t5 import T5Encoder
from vidgen_dist.models.transformers.mochi import MochiTransformer3DModel
from vidgen_dist.parallel.mesh import Mesh, alone
from vidgen_dist.pipelines.encoded_texts import Encoded, EncodedTexts
from vidgen_dist.pipelines.guidance import both_halves, guide, is_guided, own_halves
from vidgen_dist.pipelines.mochi_rules import SPATIAL, Geometry
from vidgen_dist.pipelines.rendering import (
    OnProgress,
    OnState,
    Rendering,
    StageClock,
    State,
    Steps,
    check_finite,
    draw_noise,
    round_to,
    seeded,
    to_frames,
)
from vidgen_dist.pipelines.rules import Rules
from vidgen_dist.request import RenderRequest
from vidgen_dist.schedulers.flow_match import FlowMatchEulerDiscreteScheduler
from vidgen_dist.weights.tokenizer import tokenize_with_mask

THRESHOLD_NOISE = 0.025
"""How far the first half of the steps goes, of the way from noise to the video."""


class MochiPipeline:
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
        self.rules = rules
        self.tokenizer = tokenizer
        self.text_encoder = text_encoder
        self.transformer = transformer
        self.vae = vae
        self.scheduler = scheduler
        self.zeros_for_empty_prompt = zeros_for_empty_prompt
        self.dtype = dtype
        self.mesh = mesh or alone()
        self.geometry = Geometry.of(transformer_config, vae_config)
        self._texts = EncodedTexts()

    def __call__(self, request: RenderRequest) -> np.ndarray:
        """Render one request: float32 frames (frames, height, width, 3) in [0, 1]."""
        return self.render(request).frames

    def render(
        self,
        request: RenderRequest,
        on_progress: OnProgress | None = None,
        *,
        resume: State | None = None,
        on_state: OnState | None = None,
    ) -> Rendering:
        """Render one request.

        Args:
            request: What to render; fields left out take the model's defaults, and seed 0.
            on_progress: Called when a stage begins and after each denoising step.
            resume: State of a rendering of this request to go on from; on a gang the same on all ranks.
            on_state: Called with the state after each denoising step.

        Raises:
            RequestError: A field that the model cannot do.
            NumericalError: Values that are NaN or infinite, instead of a video.
        """
        request = self.rules.resolve(request)
        rng = seeded(request.seed or 0)
        self.mesh.traffic.clear()
        clock = StageClock(on_progress)
        with clock.stage("encode"):
            texts = self._encode_texts(request)
            noise = self._start(request, rng)
        steps = Steps(len(self.scheduler.timesteps), rng, clock, resume, on_state)
        with clock.stage("denoise", steps.count):
            latents = self._denoise(request, texts, noise, steps)
        with clock.stage("decode"):
            frames = self._decode(latents)
        return Rendering(frames=frames, seconds=clock.seconds, sent=dict(self.mesh.traffic.sent))

    # Conditioning

    def _encode_texts(self, request: RenderRequest) -> Encoded:
        """Text hidden states (B, L, D), and which of them are the prompt's (B, L).

        The negative prompt's first where there is guidance; where its halves have ranks of their own, only
        this rank's half.
        """
        prompts = [request.prompt]
        if is_guided(request):
            prompts.insert(0, request.negative_prompt or "")
        # Every rank has those of both halves: with a share of them, ranks that know their prompt would not
        # be there to gather the encoder's weights with those that do not.
        texts = [self._encoded(prompt, request) for prompt in prompts]
        if is_guided(request):
            texts = list(own_halves(texts, self.mesh))
        return tuple(np.concatenate(parts) for parts in zip(*texts, strict=True))

    def _encoded(self, prompt: str, request: RenderRequest) -> Encoded:
        """As `_encode_texts`, of one prompt."""
        length = request.max_sequence_length
        assert length is not None

        def encode() -> Encoded:
            ids, mask = tokenize_with_mask(self.tokenizer, prompt, length)
            if self.zeros_for_empty_prompt and not prompt:
                ids, mask = np.zeros_like(ids), np.zeros_like(mask)
            hidden = nn.to_numpy(self.text_encoder(ids, mask))
            check_finite(hidden, "encode, text")
            return hidden, mask

        return self._texts.get(prompt, length, encode)

    def _start(self, request: RenderRequest, rng: np.random.Generator) -> np.ndarray:
        """Noise (1, C, T, H, W), and the scheduler made ready."""
        assert request.num_inference_steps is not None
        assert request.num_frames is not None
        assert request.height is not None
        assert request.width is not None
        self.scheduler.set_timesteps(sigmas=linear_quadratic_sigmas(request.num_inference_steps))
        g = self.geometry
        size = request.height // SPATIAL, request.width // SPATIAL
        noise = draw_noise(rng, (1, g.latent_channels, g.latent_frames(request.num_frames), *size), "float32")
        return round_to(noise, self.dtype)

    def _tensor(self, values: np.ndarray) -> nn.Tensor:
        return nn.from_numpy(values, nn.dtype(self.dtype))

    # Denoising

    def _denoise(self, request: RenderRequest, texts: Encoded, noise: np.ndarray, steps: Steps) -> np.ndarray:
        """Latents (1, C, T, H, W) after the last step."""
        assert request.guidance_scale is not None
        (latents,) = steps.begin(latents=noise)
        for i in steps:
            predicted = self._predict(
                request, latents, texts, round_to(self.scheduler.timesteps[i], self.dtype)
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

    def _decode(self, latents: np.ndarray) -> np.ndarray:
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
