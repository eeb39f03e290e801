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
from vidgen_dist.models.autoencoders.cogvideox import AutoencoderKLCogVideoX
from vidgen_dist.models.encoders.t5 import T5Encoder
from vidgen_dist.models.transformers.cogvideox import CogVideoXTransformer3DModel, rotary_positions
from vidgen_dist.parallel.mesh import Mesh, alone
from vidgen_dist.pipelines.cogvideox_rules import Geometry
from vidgen_dist.pipelines.encoded_texts import Encoded, EncodedTexts
from vidgen_dist.pipelines.guidance import both_halves, guide, is_guided, own_halves
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
    to_pixels,
)
from vidgen_dist.pipelines.rules import Rules
from vidgen_dist.pipelines.tasks import IMAGE_TO_VIDEO, VIDEO_TO_VIDEO
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
        latents: Noise, or a noised clip: float32 (1, T, C, H, W).
        image: The first frame's latents, put beside `latents` as channels: (1, T, C, H, W) or None.
        timesteps: Timesteps to go through, descending.
        padding: Latent frames in front that are cut off before decoding (CogVideoX 1.5).
    """

    latents: np.ndarray
    image: np.ndarray | None
    timesteps: np.ndarray
    padding: int


class CogVideoXPipeline:
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
        self.rules = rules
        self.tokenizer = tokenizer
        self.text_encoder = text_encoder
        self.transformer = transformer
        self.vae = vae
        self.scheduler = scheduler
        self.transformer_config = transformer_config
        self.vae_config = vae_config
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
            RequestError: A field that the model cannot do, or a clip that does not fit.
            MediaError: An image or clip that does not decode.
            NumericalError: Values that are NaN or infinite, instead of a video.
        """
        request = self.rules.resolve(request)
        rng = seeded(request.seed or 0)
        self.mesh.traffic.clear()
        clock = StageClock(on_progress)
        with clock.stage("encode"):
            text = self._encode_text(request)
            start = self._start(request, rng)
        steps = Steps(len(start.timesteps), rng, clock, resume, on_state)
        with clock.stage("denoise", steps.count):
            latents = self._denoise(request, text, start, steps)
        with clock.stage("decode"):
            frames = self._decode(latents[:, start.padding :])
        return Rendering(frames=frames, seconds=clock.seconds, sent=dict(self.mesh.traffic.sent))

    # Conditioning

    def _encode_text(self, request: RenderRequest) -> nn.Tensor:
        """Text hidden states (B, L, D): the negative prompt's first when guidance is on.

        Where the halves of guidance have ranks of their own, only this rank's half.
        """
        prompts = [request.prompt]
        if is_guided(request):
            prompts.insert(0, request.negative_prompt or "")
        # Every rank has those of both halves: with a share of them, ranks that know their prompt would not
        # be there to gather the encoder's weights with those that do not.
        texts = [self._encoded(prompt, request) for prompt in prompts]
        if is_guided(request):
            texts = list(own_halves(texts, self.mesh))
        return self._tensor(np.concatenate(texts))

    def _encoded(self, prompt: str, request: RenderRequest) -> np.ndarray:
        """Text hidden states of one prompt, float32 (1, L, D).

        One at a time: the encoder's activations at twice the batch are its peak of memory.
        """
        length = request.max_sequence_length
        assert length is not None

        def encode() -> Encoded:
            hidden = nn.to_numpy(self.text_encoder(nn.from_numpy(tokenize(self.tokenizer, prompt, length))))
            check_finite(hidden, "encode, text")
            return (hidden,)

        (hidden,) = self._texts.get(prompt, length, encode)
        return hidden

    def _start(self, request: RenderRequest, rng: np.random.Generator) -> Start:
        assert request.num_inference_steps is not None
        self.scheduler.set_timesteps(request.num_inference_steps)
        if self.rules.task == VIDEO_TO_VIDEO:
            return self._start_from_video(request, rng)
        assert request.num_frames is not None
        latent_frames = self.geometry.latent_frames(request.num_frames)
        padding = self.geometry.padding_frames(latent_frames)
        frames = latent_frames + padding
        image = None
        if self.rules.task == IMAGE_TO_VIDEO:
            image = self._image_latents(request, frames, rng)
        noise = draw_noise(rng, self._latent_shape(request, frames), self.dtype)
        latents = noise * np.float32(self.scheduler.init_noise_sigma)
        return Start(latents, image, self.scheduler.timesteps, padding)

    def _start_from_video(self, request: RenderRequest, rng: np.random.Generator) -> Start:
        assert request.num_inference_steps is not None
        assert request.strength is not None
        pixels = self._pixels(self._clip(request), request)
        clip = self._encode_pixels(pixels, rng) * np.float32(self._scaling_factor)
        noise = draw_noise(rng, clip.shape, self.dtype)
        steps = request.num_inference_steps
        taken = min(int(steps * request.strength), steps)
        timesteps = self.scheduler.timesteps[steps - taken :]
        noised = self.scheduler.add_noise(round_to(clip, self.dtype), noise, timesteps[0])
        latents = round_to(noised, self.dtype) * np.float32(self.scheduler.init_noise_sigma)
        return Start(latents, None, timesteps, 0)

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
        inverted = self.vae_config.get("invert_scale_latents", False)
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

    def _tensor(self, values: np.ndarray) -> nn.Tensor:
        return nn.from_numpy(values, nn.dtype(self.dtype))

    @property
    def _scaling_factor(self) -> float:
        return self.vae_config.get("scaling_factor", 1.15258426)

    # Denoising

    def _denoise(self, request: RenderRequest, text: nn.Tensor, start: Start, steps: Steps) -> np.ndarray:
        """Latents (1, T, C, H, W) after the last step."""
        rotary = self._rotary(request, start.latents.shape[1])
        latents, previous = steps.begin(latents=start.latents, previous=None)
        for i in steps:
            timestep = int(start.timesteps[i])
            predicted = self._predict(request, latents, start.image, text, timestep, rotary)
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
        image: np.ndarray | None,
        text: nn.Tensor,
        timestep: int,
        rotary: tuple[nn.Tensor, nn.Tensor] | None,
    ) -> np.ndarray:
        """The transformer's output, float32 (B, T, C, H, W): both halves when guidance is on."""
        inputs = self.scheduler.scale_model_input(latents, timestep)
        if image is not None:
            inputs = np.concatenate([inputs, image], axis=2)
        batch = text.shape[0]
        inputs = np.concatenate([inputs] * batch, axis=0)
        ofs = None
        if self.transformer_config.get("ofs_embed_dim") is not None:
            ofs = nn.from_numpy(np.full((1,), OFS, np.float32))
        predicted = self.transformer(
            self._tensor(inputs),
            text,
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

    def _decode(self, latents: np.ndarray) -> np.ndarray:
        """Latents (1, T, C, H, W) to frames (F, height, width, 3) in [0, 1]."""
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
