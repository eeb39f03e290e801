"""What LTX-Video checkpoints take, read from the configs of their transformer, VAE and scheduler.

Defaults are those of diffusers' LTXPipeline and LTXImageToVideoPipeline; frames per second of the file are
those of the model card (24).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vidgen_dist.config import bad_key, select_sizes
from vidgen_dist.errors import Refused
from vidgen_dist.families.common.tasks import (
    IMAGE_TO_VIDEO,
    TEXT_TO_VIDEO,
    TaskRules,
    check_classes,
    warn_of_frames,
)
from vidgen_dist.request import RenderRequest, RequestError
from vidgen_dist.schedulers import load_scheduler
from vidgen_dist.weights.checkpoint import Checkpoint

MULTIPLE = 32
"""Of height and width, whatever the checkpoint's VAE makes of them."""


@dataclass(frozen=True)
class _Transformer:
    in_channels: int = 128
    out_channels: int | None = 128


@dataclass(frozen=True)
class _Vae:
    latent_channels: int = 128
    patch_size: int = 4
    patch_size_t: int = 1
    spatial_compression_ratio: int | None = None
    temporal_compression_ratio: int | None = None


@dataclass(frozen=True)
class Geometry:
    """How pixels become latents; a token is one of them.

    Args:
        spatial: Pixels per latent along height and width.
        temporal: Frames per latent frame.
        doublings: How often the decoder doubles the frames.
        patch_size_t: Frames that it makes of each one in the end.
        latent_channels: Channels of the latents.
    """

    spatial: int
    temporal: int
    doublings: int
    patch_size_t: int
    latent_channels: int

    @classmethod
    def of(cls, vae: Mapping[str, Any]) -> Geometry:
        """The geometry that the VAE's config gives.

        Raises:
            Refused: Names the key whose value cannot be.
        """
        read = select_sizes(_Vae, vae, "vae")
        halvings = _scalings(vae, "spatio_temporal_scaling")
        doublings = _scalings(vae, "decoder_spatio_temporal_scaling")
        blocks = len(vae.get("decoder_block_out_channels", (128, 256, 512, 512)))
        return cls(
            spatial=read.spatial_compression_ratio or read.patch_size * 2 ** sum(halvings),
            temporal=read.temporal_compression_ratio or read.patch_size_t * 2 ** sum(halvings),
            doublings=sum(doublings[-blocks:]),
            patch_size_t=read.patch_size_t,
            latent_channels=read.latent_channels,
        )

    def latent_frames(self, num_frames: int) -> int:
        """Latent frames of a video: the first frame has one of its own."""
        return (num_frames - 1) // self.temporal + 1

    def decoded_frames(self, latent_frames: int) -> int:
        """Frames that the VAE makes of latent frames."""
        return ((latent_frames - 1) * 2**self.doublings + 1) * self.patch_size_t


def _scalings(vae: Mapping[str, Any], key: str) -> Sequence[bool]:
    listed = vae.get(key, (True, True, True, False))
    if not isinstance(listed, list | tuple) or not all(isinstance(entry, bool) for entry in listed):
        raise bad_key("vae", key, listed, "a list of true and false")
    return listed


def read(checkpoint: Checkpoint) -> dict[str, TaskRules]:
    """Task -> rules; every checkpoint can do both.

    Raises:
        Refused: A class that is not LTX-Video's, a scheduler's config that cannot be, or channels that do not
            fit.
    """
    check_classes(checkpoint, _CLASSES)
    geometry = Geometry.of(checkpoint.config("vae"))
    channels = select_sizes(_Transformer, checkpoint.config("transformer"), "transformer")
    for key, value in vars(channels).items():
        if (value or channels.in_channels) != geometry.latent_channels:
            raise Refused(
                f"{checkpoint.component_folder('transformer') / 'config.json'}: {key} {value} does not fit; "
                f"allowed: the VAE's latent_channels, {geometry.latent_channels}"
            )
    scheduler = load_scheduler(checkpoint.class_name("scheduler"), checkpoint.config("scheduler"))
    tasks = (TEXT_TO_VIDEO, IMAGE_TO_VIDEO)
    rules = _task_rules(geometry, scheduler.config["shift_terminal"])
    return dict.fromkeys(tasks, rules)


_CLASSES = {
    "transformer": ("LTXVideoTransformer3DModel",),
    "vae": ("AutoencoderKLLTXVideo",),
    "text_encoder": ("T5EncoderModel",),
    "tokenizer": ("T5Tokenizer", "T5TokenizerFast"),
    "scheduler": ("FlowMatchEulerDiscreteScheduler",),
}


def _task_rules(geometry: Geometry, shift_terminal: float | None) -> TaskRules:
    multiple = math.lcm(MULTIPLE, geometry.spatial)

    def check(request: RenderRequest) -> None:
        assert request.num_frames is not None
        if shift_terminal and request.num_inference_steps == 1:
            raise RequestError(
                "num_inference_steps", 1, f"2 or more with the scheduler's shift_terminal, {shift_terminal:g}"
            )
        made = geometry.decoded_frames(geometry.latent_frames(request.num_frames))
        warn_of_frames(request.num_frames, made)

    return TaskRules(
        defaults={
            "negative_prompt": "",
            "height": 512,
            "width": 704,
            "num_frames": 161,
            "num_inference_steps": 50,
            "guidance_scale": 3.0,
            "guidance_rescale": 0.0,
            "max_sequence_length": 128,
            "frame_rate": 25.0,
            # Both are without effect, as in diffusers, where the VAE is not told the timestep (0.9.0).
            "decode_timestep": 0.0,
            "fps": 24.0,
        },
        multiples={"height": multiple, "width": multiple},
        check=check,
        # By default it is decode_timestep.
        optional=("decode_noise_scale",),
    )
