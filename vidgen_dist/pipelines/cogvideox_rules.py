"""What CogVideoX checkpoints take, read from `transformer/config.json` and `vae/config.json`.

Defaults are those of diffusers' CogVideoXPipeline, CogVideoXImageToVideoPipeline and
CogVideoXVideoToVideoPipeline; frames per second are those of the model cards (8, and 16 for 1.5).
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vidgen_dist.errors import Refused
from vidgen_dist.pipelines.tasks import IMAGE_TO_VIDEO, TEXT_TO_VIDEO, VIDEO_TO_VIDEO, TaskRules
from vidgen_dist.request import RenderRequest, RequestError
from vidgen_dist.weights.checkpoint import Checkpoint

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Geometry:
    """How pixels become latents become tokens.

    Args:
        spatial: Pixels per latent along height and width.
        temporal: Frames per latent frame.
        patch_size: Latents per token along height and width.
        patch_size_t: Latent frames per token in CogVideoX 1.5, None before.
        latent_channels: Channels of the VAE's latents.
    """

    spatial: int
    temporal: int
    patch_size: int
    patch_size_t: int | None
    latent_channels: int

    @classmethod
    def of(cls, transformer: Mapping[str, Any], vae: Mapping[str, Any]) -> Geometry:
        return cls(
            spatial=2 ** (len(vae.get("block_out_channels", (128, 256, 256, 512))) - 1),
            temporal=int(vae.get("temporal_compression_ratio", 4)),
            patch_size=transformer.get("patch_size", 2),
            patch_size_t=transformer.get("patch_size_t"),
            latent_channels=vae.get("latent_channels", 16),
        )

    def latent_frames(self, num_frames: int) -> int:
        """Latent frames of a video: the first frame has one of its own."""
        return (num_frames - 1) // self.temporal + 1

    def decoded_frames(self, latent_frames: int) -> int:
        """Frames that the VAE makes of latent frames.

        It takes them two by two, an odd one with the first two; only in such a batch of an odd number is
        the first latent frame one frame alone.
        """
        return self.temporal * latent_frames - (self.temporal - 1 if latent_frames % 2 else 0)

    def padding_frames(self, latent_frames: int) -> int:
        """Latent frames put in front so that `patch_size_t` divides their number (CogVideoX 1.5)."""
        return -latent_frames % self.patch_size_t if self.patch_size_t else 0


def read(checkpoint: Checkpoint) -> dict[str, TaskRules]:
    """Task -> rules, for the tasks that the checkpoint can do; the first is the likeliest.

    Raises:
        Refused: The transformer's channels fit neither task, or a class is not CogVideoX's.
    """
    for component, expected in _CLASSES.items():
        found = checkpoint.class_name(component)
        if found not in expected:
            raise Refused(
                f"{checkpoint.folder / 'model_index.json'}: {component} is a {found}; "
                f"allowed: {', '.join(expected)}"
            )
    transformer, vae = checkpoint.config("transformer"), checkpoint.config("vae")
    geometry = Geometry.of(transformer, vae)
    in_channels = transformer.get("in_channels", 16)
    tasks: tuple[str, ...]
    if in_channels == geometry.latent_channels:
        tasks = (TEXT_TO_VIDEO, VIDEO_TO_VIDEO)
    elif in_channels == 2 * geometry.latent_channels:
        tasks = (IMAGE_TO_VIDEO,)
    else:
        config = checkpoint.component_folder("transformer") / "config.json"
        raise Refused(
            f"{config}: in_channels {in_channels} does not fit the VAE's latent_channels "
            f"{geometry.latent_channels}; allowed: the same (text- and video-to-video) or twice as many "
            f"(image-to-video)"
        )
    steps = checkpoint.config("scheduler").get("num_train_timesteps", 1000)
    return {task: _task_rules(task, transformer, geometry, steps) for task in tasks}


_CLASSES = {
    "transformer": ("CogVideoXTransformer3DModel",),
    "vae": ("AutoencoderKLCogVideoX",),
    "text_encoder": ("T5EncoderModel",),
    "tokenizer": ("T5Tokenizer", "T5TokenizerFast"),
    "scheduler": ("CogVideoXDDIMScheduler", "CogVideoXDPMScheduler"),
}


def _task_rules(
    task: str, transformer: Mapping[str, Any], geometry: Geometry, train_timesteps: int
) -> TaskRules:
    positional = _has_positions(transformer)
    defaults: dict[str, Any] = {
        "negative_prompt": "",
        "height": transformer.get("sample_height", 60) * geometry.spatial,
        "width": transformer.get("sample_width", 90) * geometry.spatial,
        "num_frames": transformer.get("sample_frames", 49),
        "num_inference_steps": 50,
        "guidance_scale": 6.0,
        "use_dynamic_cfg": False,
        "eta": 0.0,
        # The pipelines' own default, but for position tables, which fit one length only.
        "max_sequence_length": transformer.get("max_text_seq_length", 226) if positional else 226,
        "fps": 16.0 if geometry.patch_size_t else 8.0,
    }
    optional: tuple[str, ...] = ()
    if task == IMAGE_TO_VIDEO:
        # Here the reference pipeline does not ask the checkpoint.
        defaults["num_frames"] = 49
    elif task == VIDEO_TO_VIDEO:
        defaults["strength"] = 0.8
        # The clip says how many frames there are; a row may ask for its first ones alone.
        del defaults["num_frames"]
        optional = ("num_frames",)
    multiple = geometry.spatial * geometry.patch_size

    def check(request: RenderRequest) -> None:
        steps = request.num_inference_steps
        assert steps is not None
        if steps > train_timesteps:
            raise RequestError(
                "num_inference_steps",
                steps,
                f"at most the scheduler's num_train_timesteps, {train_timesteps}",
            )
        if task == VIDEO_TO_VIDEO:
            _check_strength(request)
        _check_positions(request, transformer, geometry)
        if request.num_frames is not None:
            _warn_of_frames(request.num_frames, geometry)

    return TaskRules(
        defaults=defaults, multiples={"height": multiple, "width": multiple}, check=check, optional=optional
    )


def _has_positions(transformer: Mapping[str, Any]) -> bool:
    """Whether a table of positions is added to the tokens (sincos or learned)."""
    rotary = transformer.get("use_rotary_positional_embeddings", False)
    return not rotary or transformer.get("use_learned_positional_embeddings", False)


def _check_positions(request: RenderRequest, transformer: Mapping[str, Any], geometry: Geometry) -> None:
    if _has_positions(transformer):
        length = transformer.get("max_text_seq_length", 226)
        if request.max_sequence_length != length:
            raise RequestError(
                "max_sequence_length",
                request.max_sequence_length,
                f"this model's position table needs {length}",
            )
    for field, sample, size in (("height", "sample_height", 60), ("width", "sample_width", 90)):
        value, trained = getattr(request, field), transformer.get(sample, size) * geometry.spatial
        if transformer.get("use_learned_positional_embeddings", False) and value != trained:
            raise RequestError(field, value, f"this model's learned positions are for {trained} alone")
        # 1.5 counts rotary positions from the corner and has them up to its training size.
        if geometry.patch_size_t and value > trained:
            raise RequestError(field, value, f"this model has positions up to {trained}")


def _check_strength(request: RenderRequest) -> None:
    assert request.num_inference_steps is not None
    assert request.strength is not None
    if int(request.num_inference_steps * request.strength) < 1:
        least = 1 / request.num_inference_steps
        raise RequestError(
            "strength", request.strength, f"{least:g} or more, or no step of num_inference_steps is taken"
        )


@functools.cache
def _warn_of_frames(num_frames: int, geometry: Geometry) -> None:
    """Say it once for each number of frames: the reference pipeline rounds in silence."""
    made = geometry.decoded_frames(geometry.latent_frames(num_frames))
    if made != num_frames:
        logger.warning("num_frames %d makes %d frames with this model", num_frames, made)
