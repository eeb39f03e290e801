"""The fields of a row, and RenderRequest: one video as one manifest row requests it.

A field is declared once. Its name is the manifest's column name and, where diffusers has the argument, that
argument's name. Its kind says which values it takes; `Field` says the rest. Common fields are declared on
`RenderRequest`; a family declares its own, `Field` values by name, in its folder. Columns, fingerprints,
`--set`, messages and the documentation's table follow from the declarations.

In a request ``None`` means "the model's default"; a family's rules (`vidgen_dist.families.rules`) fill in the
defaults and check what depends on the model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vidgen_dist.errors import RowError, shortened
from vidgen_dist.kinds import (
    Clip,
    Flag,
    Image,
    Kind,
    LoraPlaces,
    LoraScales,
    NotAllowed,
    Number,
    RowId,
    Source,
    Text,
    Whole,
)

MAX_SEED = 2**63 - 1
# A frame of a gif lasts 65,535 hundredths of a second at most.
MIN_FPS, MAX_FPS = 0.01, 1000.0


FPS = "fps"
"""The field whose default in a run is `output.fps`, unless a family says otherwise."""


class RequestError(RowError, ValueError):
    """A value that a field of a request cannot have; the message has field, value and what is allowed.

    Args:
        field: The field's name.
        value: The value.
        allowed: What is allowed, in words.
    """

    def __init__(self, field: str, value: Any, allowed: str) -> None:
        super().__init__(f"{field}: {shown_value(value)} is not allowed; {allowed}")
        self.field = field
        self.value = value
        self.allowed = allowed

    def __reduce__(self) -> tuple[type, tuple[str, Any, str]]:
        # Exceptions cross process borders: rebuild from the three parts, not from the message.
        return type(self), (self.field, self.value, self.allowed)


SHOWN_VALUE = 120
"""Characters of a value that a message shows, at most."""


def shown_value(value: Any) -> str:
    """A value as messages show it, shortened: an image may have millions of bytes."""
    return shortened(repr(value[:SHOWN_VALUE] if isinstance(value, str | bytes) else value), SHOWN_VALUE)


@dataclass(frozen=True)
class Field:
    """The declaration of a row's field.

    Args:
        kind: Which values it takes.
        about: What it is, as the documentation says it.
        base: Whether fingerprints include it even if it is empty, as in the first ledgers. They leave out any
            other empty field, so that rows that do not use it keep the fingerprints from before it existed.
        counts: Whether fingerprints include it at all.
        per_row: Whether its value differs from row to row and does not affect what a model can do.
        shape: Whether it decides the shape of what is computed; rows of one shape are rendered together.
        not_sampling: Why a run cannot set it under `sampling`; empty if it can.
        usual: Whether many people change it: a new run file gives the model's default as a value.
        may_be_ignored: Whether a model without this field ignores it; other fields are then refused.
    """

    kind: Kind
    about: str
    base: bool = False
    counts: bool = True
    per_row: bool = False
    shape: bool = False
    not_sampling: str = ""
    usual: bool = False
    may_be_ignored: bool = False

    @property
    def is_own(self) -> bool:
        """Whether its values differ from row to row: `per_row` fields, and images and clips."""
        return self.per_row or self.kind.has_sources

    def parse(self, name: str, value: Any) -> Any:
        """A value, not None, in the form that requests have.

        Args:
            name: The field's name.
            value: The value.

        Raises:
            RequestError: It is not allowed.
        """
        try:
            return self.kind.parse(value)
        except NotAllowed as error:
            raise RequestError(name, value, error.allowed) from None


def _row(kind: Kind, about: str, **settings: Any) -> Any:
    """A field of `RenderRequest`, declared like a `Field`."""
    return dataclasses.field(default=None, metadata={"field": Field(kind, about, **settings)})


@dataclass(frozen=True, kw_only=True, init=False)
class RenderRequest:
    """What one video is to be.

    Fields are given by name; `FIELDS` describes each. Fields that are not common are kept in `of_family`
    unparsed, for the family's rules; they may also be given as that mapping.

    Raises:
        RequestError: A value of the wrong type or outside its range.
    """

    prompt: str | None = _row(
        Text(),
        "what the video shows",
        base=True,
        per_row=True,
        not_sampling="each row has its own",
        may_be_ignored=True,
    )
    id: str | None = _row(
        RowId(),
        "the row's identity, unique in the manifest; by default a digest of the row",
        counts=False,
        per_row=True,
        not_sampling="each row has its own",
    )
    negative_prompt: str | None = _row(
        Text(), "what the video must not show; used where there is guidance", base=True, usual=True
    )
    image: Any = _row(Image(), "the first frame, for image-to-video: path, URI or encoded bytes")
    video: Any = _row(Clip(), "the clip, for video-to-video: path or URI")
    height: int | None = _row(
        Whole(),
        "pixels; a multiple that the model needs, such as 16 or 32",
        base=True,
        shape=True,
        usual=True,
    )
    width: int | None = _row(Whole(), "pixels; a multiple as for `height`", base=True, shape=True, usual=True)
    num_frames: int | None = _row(
        Whole(),
        "number of frames; video-to-video: how many of the clip's frames are used",
        base=True,
        shape=True,
        usual=True,
    )
    num_inference_steps: int | None = _row(Whole(), "denoising steps", base=True, usual=True)
    guidance_scale: float | None = _row(
        Number(0, 1e6), "scale of classifier-free guidance; 1 or less turns it off", base=True, usual=True
    )
    guidance_rescale: float | None = _row(
        Number(0, 1),
        "share of the guided prediction that is rescaled to the standard deviation of the prediction with "
        "the prompt (arXiv:2305.08891, section 3.4)",
    )
    use_dynamic_cfg: bool | None = _row(
        Flag(), "CogVideoX: the guidance scale grows with the steps, along a cosine", base=True
    )
    eta: float | None = _row(
        Number(0, 1),
        "share of noise that DDIM adds at each step; CogVideoX's schedulers ignore it, as in diffusers",
        base=True,
    )
    strength: float | None = _row(
        Number(0, 1, above=True),
        "video-to-video: share of the steps that are taken; with more, less of the clip remains",
        base=True,
        usual=True,
    )
    max_sequence_length: int | None = _row(
        Whole(), "number of tokens to which the prompt is cut or padded", base=True
    )
    lora: tuple[str, ...] | None = _row(
        LoraPlaces(),
        "LoRAs that are added to the weights for this row, after the run's: hub ids, folders, paths or URIs",
        not_sampling="it is model.loras",
    )
    lora_scale: tuple[float, ...] | None = _row(
        LoraScales(), "how much of each of them is added; by default 1", not_sampling="it is model.loras"
    )
    seed: int | None = _row(
        Whole(0, MAX_SEED),
        "seed of the noise, 0 to 2⁶³-1; by default from the run's `--seed` and the id",
        base=True,
        per_row=True,
    )
    fps: float | None = _row(
        Number(MIN_FPS, MAX_FPS),
        "frames per second of the file; Stable Video Diffusion's model is also told this number",
        base=True,
        not_sampling="it is output.fps",
    )
    # A dict has no hash.
    of_family: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)

    def __init__(self, **values: Any) -> None:
        others = values.pop("of_family", None)
        if others:
            values = {**others, **values}
        parsed: dict[str, Any] = {}
        of_family: dict[str, Any] = {}
        for name, value in values.items():
            if value is None:
                continue
            parse = _PARSE.get(name)
            if parse is None:
                of_family[name] = value
                continue
            try:
                parsed[name] = parse(value)
            except NotAllowed:
                # With several faults, the message does not depend on the order of the values.
                raise _first_fault(values) from None
        # One update, where a frozen dataclass would set fields one by one: millions of rows become requests.
        # Fields without a value are the class's defaults.
        self.__dict__.update(parsed, of_family=of_family)

    def values(self) -> dict[str, Any]:
        """The fields that have a value: the common ones in the order of `FIELDS`, then the family's."""
        own = self.__dict__
        return {**{name: own[name] for name in _NAMES if name in own}, **self.of_family}

    def parsed(self, fields: Mapping[str, Field]) -> RenderRequest:
        """The request with its family's fields parsed.

        Args:
            fields: The family's fields, or all that there are.

        Raises:
            RequestError: A field is not among them, or has a value that is not allowed.
        """
        if not self.of_family:
            return self
        for name, value in self.of_family.items():
            if name not in fields:
                raise RequestError(name, value, "unknown field: leave it out")
        return dataclasses.replace(
            self, of_family={name: fields[name].parse(name, value) for name, value in self.of_family.items()}
        )


@dataclass(frozen=True, kw_only=True)
class ResolvedRequest:
    """A request with every default filled in; a family's subclass adds the fields of its task.

    Args:
        id: The row's identity; empty outside of a run.
        seed: Seed of the noise.
        fps: Frames per second, see `written_fps`.
        height, width: Size of the frames in pixels.
        num_inference_steps: Denoising steps.
        lora, lora_scale: LoRAs of the row and their scales, equally many; None for none.
    """

    id: str = ""
    seed: int = 0
    lora: tuple[str, ...] | None = None
    lora_scale: tuple[float, ...] | None = None
    fps: float
    height: int
    width: int
    num_inference_steps: int

    @property
    def written_fps(self) -> float:
        """Frames per second written into the file."""
        return self.fps

    @property
    def loras(self) -> tuple[tuple[str, float], ...]:
        """The row's LoRAs with their scales."""
        return tuple(zip(self.lora or (), self.lora_scale or (), strict=True))

    @property
    def steps(self) -> int:
        """The number of predictions."""
        return self.num_inference_steps

    @property
    def is_guided(self) -> bool:
        """Whether each step predicts twice, with the condition and without."""
        return False

    def values(self) -> dict[str, Any]:
        """All fields that are not empty, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


FIELDS: dict[str, Field] = {
    field.name: field.metadata["field"] for field in dataclasses.fields(RenderRequest) if field.metadata
}
"""The common fields of all families, by name, in the order of the documentation."""

_NAMES = tuple(FIELDS)
_PARSE = {name: field.kind.parse for name, field in FIELDS.items()}


def _first_fault(values: Mapping[str, Any]) -> RequestError:
    """The error of the first common field with a fault, in the order of `FIELDS`."""
    for name, field in FIELDS.items():
        if values.get(name) is not None:
            try:
                field.parse(name, values[name])
            except RequestError as error:
                return error
    raise AssertionError("one of them has a fault")


def sources_of(values: Mapping[str, Any], fields: Mapping[str, Field] = FIELDS) -> dict[str, Source]:
    """Every image and clip of a row, by name: `image`, or `conditions[0].image`.

    Args:
        values: The row's fields, parsed, as `RenderRequest.values` has them.
        fields: The declarations; names that are not among them are skipped.
    """
    found = {}
    for name, value in values.items():
        field = fields.get(name)
        if field is not None and field.kind.has_sources and value is not None:
            for at, source in field.kind.sources(value).items():
                found[name + at] = source
    return found


def with_sources(
    values: Mapping[str, Any], sources: Mapping[str, Any], fields: Mapping[str, Field] = FIELDS
) -> dict[str, Any]:
    """The fields of a row in which images or clips are replaced, with their new values.

    Args:
        values, fields: As `sources_of` takes them.
        sources: The replacements, by the names that `sources_of` gives.
    """
    changed = {}
    for name, value in values.items():
        field = fields.get(name)
        if field is not None and field.kind.has_sources and value is not None:
            own = {at: sources[name + at] for at in field.kind.sources(value) if name + at in sources}
            if own:
                changed[name] = field.kind.replace(value, own)
    return changed


def shape_of(values: Mapping[str, Any], fields: Mapping[str, Field]) -> tuple[Any, ...]:
    """The values of the fields that decide the shape of what a row computes, None for missing ones."""
    return tuple(values.get(name) for name, field in fields.items() if field.shape)
