"""RenderRequest: one video, as one manifest row asks for it.

Plain data. Field names are the manifest's column names and, where diffusers has the argument, its
name. ``None`` means "the model's default"; a family's rules (`vidgen_dist.families.rules`) fill the
defaults in and check what depends on the model.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from dataclasses import dataclass
from typing import Any

from vidgen_dist.errors import RowError

MAX_SEED = 2**63 - 1
# A frame of a gif lasts 65,535 hundredths of a second at most.
MIN_FPS, MAX_FPS = 0.01, 1000.0


class RequestError(RowError, ValueError):
    """A field of a request that cannot be: names the field, its value and what is allowed."""

    def __init__(self, field: str, value: Any, allowed: str) -> None:
        # An image may have millions of bytes.
        shown = repr(value[:120] if isinstance(value, str | bytes) else value)
        if len(shown) > 120:
            shown = shown[:117] + "..."
        super().__init__(f"{field}: {shown} is not allowed; {allowed}")
        self.field = field
        self.value = value
        self.allowed = allowed

    def __reduce__(self) -> tuple[type, tuple[str, Any, str]]:
        # Exceptions cross process borders: rebuild from the three parts, not from the message.
        return type(self), (self.field, self.value, self.allowed)


@dataclass(frozen=True, kw_only=True)
class RenderRequest:
    """What one video is to be.

    Args:
        prompt: Text that describes the video.
        id: The row's identity; decides the file's name and, without `seed`, the seed.
        negative_prompt: Text to steer away from; used where there is guidance.
        image: First frame for image-to-video: a path, URI, encoded bytes or PIL image.
        video: Clip for video-to-video: a path or URI, or a sequence of PIL images.
        height, width: Size of the frames in pixels.
        num_frames: Frames of the video.
        num_inference_steps: Denoising steps.
        guidance_scale: Classifier-free guidance weight; 1 or less turns guidance off.
        guidance_rescale: Share of the guided prediction, 0 to 1, that is scaled back to the spread of the
            prompt's own (arXiv:2305.08891, section 3.4).
        true_cfg_scale: Classifier-free guidance weight of a model that is told its `guidance_scale`
            (HunyuanVideo); 1 or less, or no `negative_prompt`, turns it off.
        use_dynamic_cfg: Let the guidance weight grow along a cosine of the step (CogVideoX).
        eta: Share of noise put back by DDIM, 0 (none) to 1 (DDPM).
        strength: Video-to-video: how much of the clip is noised away, above 0 up to 1.
        max_sequence_length: Tokens of the encoded prompt.
        frame_rate: Frames per second that the model is to take the video for, 0.01 to 1000 (LTX-Video).
        decode_timestep: Noise that the decoder is to expect in the latents, 0 to 1 (LTX-Video from 0.9.1).
        decode_noise_scale: Share of noise in the latents that it is given, 0 to 1; by default
            `decode_timestep`.
        seed: Seed of the noise, 0 to 2**63 - 1.
        fps: Frames per second written into the file, 0.01 to 1000.

    Raises:
        RequestError: A value of the wrong type or outside its range.
    """

    prompt: str
    id: str | None = None
    negative_prompt: str | None = None
    image: Any = None
    video: Any = None
    height: int | None = None
    width: int | None = None
    num_frames: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    guidance_rescale: float | None = None
    true_cfg_scale: float | None = None
    use_dynamic_cfg: bool | None = None
    eta: float | None = None
    strength: float | None = None
    max_sequence_length: int | None = None
    frame_rate: float | None = None
    decode_timestep: float | None = None
    decode_noise_scale: float | None = None
    seed: int | None = None
    fps: float | None = None

    def __post_init__(self) -> None:
        _text(self, "prompt", required=True)
        _text(self, "id")
        if self.id == "":
            raise RequestError("id", self.id, "a text that is not empty")
        _text(self, "negative_prompt")
        for field in MEDIA_FIELDS:
            _media(self, field)
        for field in ("height", "width", "num_frames", "num_inference_steps", "max_sequence_length"):
            _integer(self, field, 1, 2**31 - 1)
        _integer(self, "seed", 0, MAX_SEED)
        for field in ("guidance_scale", "true_cfg_scale"):
            _number(self, field, 0.0, 1e6)
        for field in ("guidance_rescale", "eta", "decode_timestep", "decode_noise_scale"):
            _number(self, field, 0.0, 1.0)
        _number(self, "strength", 0.0, 1.0, open_low=True)
        for field in ("frame_rate", "fps"):
            _number(self, field, MIN_FPS, MAX_FPS)
        if self.use_dynamic_cfg is not None and not isinstance(self.use_dynamic_cfg, bool):
            raise RequestError("use_dynamic_cfg", self.use_dynamic_cfg, "true or false")


@dataclass(frozen=True, kw_only=True)
class ResolvedRequest:
    """A request with every default filled in: a family's subclass has the fields that its task takes.

    Args:
        id: The row's identity; empty outside of a run.
        seed: Seed of the noise.
        fps: Frames per second written into the file.
    """

    id: str = ""
    seed: int = 0
    fps: float

    def values(self) -> dict[str, Any]:
        """Every field that is not empty, by its name."""
        return {name: value for name, value in vars(self).items() if value is not None}


FIELDS: tuple[str, ...] = tuple(f.name for f in dataclasses.fields(RenderRequest))
"""Every field's name: the columns that a manifest may have."""

MEDIA_FIELDS = ("image", "video")
TEXT_FIELDS = ("prompt", "id", "negative_prompt")


def is_utf8(text: str) -> bool:
    """Whether UTF-8 can hold the text; lone surrogates it cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _text(request: RenderRequest, field: str, required: bool = False) -> None:
    value = getattr(request, field)
    if value is None and not required:
        return
    if not isinstance(value, str):
        raise RequestError(field, value, "a text")
    if not is_utf8(value):
        raise RequestError(field, value, "a text that UTF-8 can hold")


def _media(request: RenderRequest, field: str) -> None:
    value = getattr(request, field)
    empty = isinstance(value, str | bytes) and not value
    if empty or isinstance(value, numbers.Number):
        raise RequestError(field, value, "a path or URI that is not empty, or what else the field may hold")


def _integer(request: RenderRequest, field: str, low: int, high: int) -> None:
    value: Any = getattr(request, field)
    if value is None:
        return
    allowed = f"a whole number from {low} to {high}"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise RequestError(field, value, allowed)
    if isinstance(value, numbers.Integral):
        whole = int(value)
    else:
        # A nullable integer column written by pandas comes as floats: 49.0 is 49.
        number = float(value)
        if not number.is_integer():
            raise RequestError(field, value, allowed)
        if 2**53 < number <= high:
            raise RequestError(field, value, f"{allowed}; a float is exact up to 2**53, write an integer")
        whole = int(number)
    if not low <= whole <= high:
        raise RequestError(field, value, allowed)
    object.__setattr__(request, field, whole)


def _number(request: RenderRequest, field: str, low: float, high: float, open_low: bool = False) -> None:
    value = getattr(request, field)
    if value is None:
        return
    allowed = f"a number {'above' if open_low else 'from'} {low:g} {'up ' if open_low else ''}to {high:g}"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise RequestError(field, value, allowed)
    value = float(value)
    if not math.isfinite(value) or not low <= value <= high or (open_low and value == low):
        raise RequestError(field, value, allowed)
    object.__setattr__(request, field, value)
