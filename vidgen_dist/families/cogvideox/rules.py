"""What CogVideoX checkpoints take, read from `transformer/config.json` and `vae/config.json`.

Defaults are those of diffusers' CogVideoXPipeline, CogVideoXImageToVideoPipeline and
CogVideoXVideoToVideoPipeline; frames per second are those of the model cards (8, and 16 for 1.5).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vidgen_dist.config import bad_key, select_sizes
from vidgen_dist.errors import Refused
from vidgen_dist.families.common.tasks import (
    IMAGE_TO_VIDEO,
    TEXT_TO_VIDEO,
    VIDEO_TO_VIDEO,
    TaskRules,
    check_classes,
    warn_of_frames,
)
from vidgen_dist.request import RenderRequest, RequestError
from vidgen_dist.schedulers import CogVideoXDDIMScheduler, CogVideoXDPMScheduler, load_scheduler
from vidgen_dist.weights.checkpoint import Checkpoint


@dataclass(frozen=True)
class Trained:
    """What the rules read of `transformer/config.json`, with diffusers' defaults."""

    in_channels: int = 16
    patch_size: int = 2
    patch_size_t: int | None = None
    sample_height: int = 60
    sample_width: int = 90
    sample_frames: int = 49
    max_text_seq_length: int = 226
    use_rotary_positional_embeddings: bool = False
    use_learned_positional_embeddings: bool = False

    @property
    def has_position_table(self) -> bool:
        """Whether a table of positions (sincos or learned) is added to the tokens."""
        return not self.use_rotary_positional_embeddings or self.use_learned_positional_embeddings


@dataclass(frozen=True)
class _Vae:
    latent_channels: int = 16
    temporal_compression_ratio: float = 4


@dataclass(frozen=True)
class Geometry:
    """How pixels become latents become tokens.

    Args:
        spatial: Pixels per latent along height and width.
        temporal: Frames per latent frame, as the pipelines count.
        resampled: Frames per latent frame as the VAE makes them: fewer where its blocks are too few.
        patch_size: Latents per token along height and width.
        patch_size_t: Latent frames per token in CogVideoX 1.5, None before.
        latent_channels: Channels of the VAE's latents.
    """

    spatial: int
    temporal: int
    resampled: int
    patch_size: int
    patch_size_t: int | None
    latent_channels: int

    @classmethod
    def of(cls, transformer: Mapping[str, Any], vae: Mapping[str, Any]) -> Geometry:
        """The geometry that the two models' configs give.

        Raises:
            Refused: Names the key whose value cannot be.
        """
        trained, latents = select_sizes(Trained, transformer, "transformer"), select_sizes(_Vae, vae, "vae")
        blocks = vae.get("block_out_channels", (128, 256, 256, 512))
        if not isinstance(blocks, list | tuple) or not blocks:
            raise bad_key("vae", "block_out_channels", blocks, "a list of whole numbers")
        spatial = 2 ** (len(blocks) - 1)
        temporal = int(latents.temporal_compression_ratio)
        return cls(
            spatial=spatial,
            temporal=temporal,
            # A block that halves frames also halves rows.
            resampled=min(temporal, spatial),
            patch_size=trained.patch_size,
            patch_size_t=trained.patch_size_t,
            latent_channels=latents.latent_channels,
        )

    def latent_frames(self, num_frames: int) -> int:
        """Latent frames of a video: the first frame has one of its own."""
        return (num_frames - 1) // self.temporal + 1

    def decoded_frames(self, latent_frames: int) -> int:
        """Frames that the VAE makes of latent frames.

        It takes them two by two, an odd one with the first two; only in such a batch of an odd number is
        the first latent frame one frame alone.
        """
        return self.resampled * latent_frames - (self.resampled - 1 if latent_frames % 2 else 0)

    def encoded_frames(self, frames: int) -> int:
        """Latent frames that the VAE makes of a clip."""
        return (frames - 1) // self.resampled + 1

    def padding_frames(self, latent_frames: int) -> int:
        """Latent frames put in front so that `patch_size_t` divides their number (CogVideoX 1.5)."""
        return -latent_frames % self.patch_size_t if self.patch_size_t else 0


def read(checkpoint: Checkpoint) -> dict[str, TaskRules]:
    """Task -> rules, for the tasks that the checkpoint can do; the first is the likeliest.

    Raises:
        Refused: The transformer's channels fit neither task, a class is not CogVideoX's, or a scheduler's
            config that cannot be.
    """
    check_classes(checkpoint, _CLASSES)
    config = checkpoint.config("transformer")
    geometry = Geometry.of(config, checkpoint.config("vae"))
    trained = select_sizes(Trained, config, "transformer")
    scheduler = load_scheduler(checkpoint.class_name("scheduler"), checkpoint.config("scheduler"))
    tasks: tuple[str, ...]
    if trained.in_channels == geometry.latent_channels:
        tasks = (TEXT_TO_VIDEO, VIDEO_TO_VIDEO)
    elif trained.in_channels == 2 * geometry.latent_channels:
        tasks = (IMAGE_TO_VIDEO,)
    else:
        raise Refused(
            f"{checkpoint.component_folder('transformer') / 'config.json'}: in_channels "
            f"{trained.in_channels} does not fit the VAE's latent_channels {geometry.latent_channels}; "
            f"allowed: the same (text- and video-to-video) or twice as many (image-to-video)"
        )
    return {task: _task_rules(task, trained, geometry, scheduler) for task in tasks}


Scheduler = CogVideoXDDIMScheduler | CogVideoXDPMScheduler


_CLASSES = {
    "transformer": ("CogVideoXTransformer3DModel",),
    "vae": ("AutoencoderKLCogVideoX",),
    "text_encoder": ("T5EncoderModel",),
    "tokenizer": ("T5Tokenizer", "T5TokenizerFast"),
    "scheduler": ("CogVideoXDDIMScheduler", "CogVideoXDPMScheduler"),
}


def steps_taken(request: RenderRequest) -> int:
    """Denoising steps of a request, its defaults filled in: with a clip, `strength` leaves out the first."""
    assert request.num_inference_steps is not None
    if request.strength is None:
        return request.num_inference_steps
    return min(int(request.num_inference_steps * request.strength), request.num_inference_steps)


def _task_rules(task: str, trained: Trained, geometry: Geometry, scheduler: Scheduler) -> TaskRules:
    defaults: dict[str, Any] = {
        "negative_prompt": "",
        "height": trained.sample_height * geometry.spatial,
        "width": trained.sample_width * geometry.spatial,
        "num_frames": trained.sample_frames,
        "num_inference_steps": 50,
        "guidance_scale": 6.0,
        "use_dynamic_cfg": False,
        "eta": 0.0,
        # The pipelines' own default, but for position tables, which fit one length only.
        "max_sequence_length": trained.max_text_seq_length if trained.has_position_table else 226,
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
        if task == VIDEO_TO_VIDEO:
            _check_strength(request)
        _check_steps(request, scheduler)
        _check_positions(request, trained, geometry)
        if request.num_frames is not None:
            made = geometry.decoded_frames(geometry.latent_frames(request.num_frames))
            warn_of_frames(request.num_frames, made)

    return TaskRules(
        defaults=defaults,
        multiples={"height": multiple, "width": multiple},
        check=check,
        optional=optional,
        check_clip=lambda request, frames: _check_clip(request, frames, geometry),
    )


def _check_positions(request: RenderRequest, trained: Trained, geometry: Geometry) -> None:
    length = request.max_sequence_length
    if trained.has_position_table and length != trained.max_text_seq_length:
        allowed = f"this model's position table needs {trained.max_text_seq_length}"
        raise RequestError("max_sequence_length", length, allowed)
    for field, latents in (("height", trained.sample_height), ("width", trained.sample_width)):
        value, size = getattr(request, field), latents * geometry.spatial
        if trained.use_learned_positional_embeddings and value != size:
            raise RequestError(field, value, f"this model's learned positions are for {size} alone")
        # 1.5 counts rotary positions from the corner and has them up to its training size.
        if geometry.patch_size_t and value > size:
            raise RequestError(field, value, f"this model has positions up to {size}")


def _check_steps(request: RenderRequest, scheduler: Scheduler) -> None:
    steps = request.num_inference_steps
    assert steps is not None
    first = scheduler.spaced_timesteps(steps)[-steps_taken(request)]
    if not scheduler.can_start_at(first):
        allowed = (
            f"such that no step is at {first}, where the scheduler's rescale_betas_zero_snr leaves no signal "
            "for its prediction_type, 'epsilon'"
        )
        raise RequestError("num_inference_steps", steps, allowed)


def _check_strength(request: RenderRequest) -> None:
    assert request.num_inference_steps is not None
    if steps_taken(request) < 1:
        least = 1 / request.num_inference_steps
        raise RequestError(
            "strength", request.strength, f"{least:g} or more, or no step of num_inference_steps is taken"
        )


def _check_clip(request: RenderRequest, frames: int, geometry: Geometry) -> None:
    if request.num_frames is not None and request.num_frames > frames:
        raise RequestError("num_frames", request.num_frames, f"at most the clip's {frames} frames")
    taken = request.num_frames or frames
    latent_frames = geometry.encoded_frames(taken)
    if geometry.padding_frames(latent_frames):
        raise RequestError(
            "video",
            f"{taken} frames",
            f"a number of frames whose latent frames (here {latent_frames}) are a multiple of "
            f"{geometry.patch_size_t}, such as 1 + {geometry.resampled} * (k * {geometry.patch_size_t} - 1); "
            "num_frames cuts a clip",
        )
