"""Tasks, and what a checkpoint takes from a request for each of them, read from its configs alone."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, get_args

from vidgen_dist.errors import Refused
from vidgen_dist.request import FIELDS, FPS, Field, RenderRequest, RequestError, ResolvedRequest
from vidgen_dist.spec import Task
from vidgen_dist.weights.contract import SamplingContract

logger = logging.getLogger(__name__)

TEXT_TO_VIDEO, IMAGE_TO_VIDEO, VIDEO_TO_VIDEO = get_args(Task)

R = TypeVar("R", bound=ResolvedRequest)

_OF_ROWS = "of each row"
"""Stands for the value of a field that every row has."""


def _all_well(*_: Any) -> None:
    """Accept everything."""


def _as_asked(num_frames: int) -> int:
    """Make as many frames as are asked for."""
    return num_frames


@dataclass(frozen=True, kw_only=True)
class TaskRules(Generic[R]):
    """What a checkpoint takes from a request for one task.

    Args:
        request: The class of requests with every default filled in; its fields are what the task takes. A
            field without a default there and in `defaults` must be in the row; only texts, images and clips
            may be so.
        defaults: Values for fields that a request may omit.
        multiples: Fields that must be multiples of a number.
        check: Raises RequestError for whatever else is wrong with a request.
        check_clip: The same for a request and the frames of its clip.
        made_frames: Takes `num_frames`, returns the frames of the video: a VAE does not make every number.
        file_fps: The field for the file's frames per second, whose default is the run's `output.fps`. It
            differs from `fps` if that one decides what is rendered.
        memory_only: Fields that affect memory and not pixels; fingerprints omit them.
        late: Defaults of fields that the family did not take when its first ledgers were written; a
            fingerprint omits such a field if the row has the default.
    """

    request: type[R]
    defaults: Mapping[str, Any]
    multiples: Mapping[str, int] = field(default_factory=dict)
    check: Callable[[R], None] = _all_well
    check_clip: Callable[[R, int], None] = _all_well
    made_frames: Callable[[int], int] = _as_asked
    file_fps: str = FPS
    memory_only: tuple[str, ...] = ()
    late: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rules(Generic[R]):
    """What a checkpoint takes from a request for its task.

    Args:
        family: Name of the model family.
        task: The task that requests are for.
        tasks: All tasks that the checkpoint supports.
        of_task: The family's rules for this task.
        declared: The fields that rows of a manifest may have, for any task, by name.
        contract: How the checkpoint, or its LoRAs, are to be sampled.

    Raises:
        Refused: The request's class has a field that is not declared, or that needs a default and has none;
            or the contract has a field that the task does not take, or a value that is not allowed.
    """

    family: str
    task: str
    tasks: tuple[str, ...]
    of_task: TaskRules[R]
    declared: Mapping[str, Field] = dataclasses.field(default_factory=lambda: FIELDS)
    contract: SamplingContract | None = None

    def __post_init__(self) -> None:
        self._check_declared()
        # Refuses what the contract cannot ask for.
        _ = self.contracted

    def _check_declared(self) -> None:
        # The author of a family learns of these mistakes here, and not from a run that they end.
        where = f"{self.family} {self.task}: {self.of_task.request.__name__}.{{}}"
        for name in sorted(self.fields - self.declared.keys()):
            raise Refused(
                f"{where.format(name)} is declared neither in request.py nor in the family's fields"
            )
        for name in self.required:
            kind = self.declared[name].kind
            if not (kind.is_text or kind.has_sources):
                raise Refused(
                    f"{where.format(name)} needs a default: only texts, images and clips may lack one"
                )

    @functools.cached_property
    def defaults(self) -> Mapping[str, Any]:
        """Values for fields that a request may omit: the contract's, and the model's."""
        return {**self.of_task.defaults, **self.contracted}

    @functools.cached_property
    def contracted(self) -> Mapping[str, Any]:
        """The values that the contract asks for, by field."""
        if self.contract is None:
            return {}
        found, where = {}, f"{self.contract.place}: sampling."
        for name, value in self.contract.sampling.items():
            if name not in self.fields or self.declared[name].not_sampling:
                raise Refused(f"{where}{name}: {self.family} {self.task} does not take it from a contract")
            try:
                found[name] = self.declared[name].parse(name, value)
            except RequestError as error:
                raise Refused(f"{where}{error}") from None
        return found

    @functools.cached_property
    def fields(self) -> frozenset[str]:
        """Every field that a request may have."""
        return frozenset(field.name for field in dataclasses.fields(self.of_task.request))

    @functools.cached_property
    def required(self) -> tuple[str, ...]:
        """The fields that every request must have."""
        return tuple(
            field.name
            for field in dataclasses.fields(self.of_task.request)
            if field.default is dataclasses.MISSING and field.name not in self.defaults
        )

    @functools.cached_property
    def required_columns(self) -> tuple[str, ...]:
        """The columns that every manifest must have, because a run cannot give a value for all rows."""
        return tuple(name for name in self.required if self.declared[name].not_sampling)

    @functools.cached_property
    def ignored(self) -> tuple[str, ...]:
        """The fields that the model does not take; a manifest may have them, and they are ignored."""
        declared = self.declared.items()
        return tuple(name for name, field in declared if field.may_be_ignored and name not in self.fields)

    @functools.cached_property
    def takes_sources(self) -> bool:
        """Whether a request may have images or clips."""
        return any(self.declared[name].kind.has_sources for name in self.fields)

    def resolve(self, request: RenderRequest | ResolvedRequest, seed: int = 0) -> R:
        """The request with every default filled in; this decides the pixels.

        Args:
            request: As in a row, or resolved already: resolving twice changes nothing.
            seed: The seed for a request without one.

        Raises:
            RequestError: A field that the model does not take, that is missing, or that is not supported.
        """
        parsed = request if isinstance(request, ResolvedRequest) else request.parsed(self.declared)
        return self._resolved(parsed.values(), seed)

    def _resolved(self, given: Mapping[str, Any], seed: int = 0) -> R:
        resolved = self._checked(given, seed)
        num_frames = getattr(resolved, "num_frames", None)
        if num_frames is not None:
            _warn_of_frames(num_frames, self.of_task.made_frames(num_frames))
        return resolved

    def _checked(self, given: Mapping[str, Any], seed: int = 0) -> R:
        values = {"seed": seed, **self.defaults, **self._taken(given)}
        self._check_contract(values)
        for name in self.required:
            if values.get(name) is None:
                raise RequestError(name, None, self._needed(name))
        for name, multiple in self.of_task.multiples.items():
            if values[name] % multiple:
                near = max(multiple, round(values[name] / multiple) * multiple)
                allowed = f"a multiple of {multiple} for this model, such as {near}"
                raise RequestError(name, values[name], allowed)
        resolved = self.of_task.request(**{**values, "lora_scale": _lora_scales(values)})
        self.of_task.check(resolved)
        return resolved

    def _check_contract(self, values: Mapping[str, Any]) -> None:
        if self.contract is None:
            return
        for name, value in self.contracted.items():
            if values[name] != value:
                allowed = f"{self.contract.place} asks for {value!r}: leave it out, or take --contract warn"
                if self.contract.binding:
                    raise RequestError(name, values[name], allowed)
                _warn_of_contract(name, values[name], value, self.contract.place)

    def _taken(self, given: Mapping[str, Any]) -> dict[str, Any]:
        taken = dict(given)
        for name in given:
            if name in self.fields:
                continue
            if name not in self.ignored:
                allowed = f"{self.family} {self.task} does not take it: leave it out"
                raise RequestError(name, given[name], allowed)
            del taken[name]
        return taken

    def _needed(self, name: str) -> str:
        kind = self.declared[name].kind
        return f"{self.task} needs one in every row" if kind.has_sources else kind.allowed

    def takes(self, **sampling: Any) -> bool:
        """Whether a row may have these values, and otherwise the model's defaults. Nothing is warned of."""
        asked = self
        if self.contract is not None and not self.contract.binding:
            asked = dataclasses.replace(self, contract=None)
        try:
            asked._checked({**dict.fromkeys(self.required, _OF_ROWS), **sampling})
        except RequestError:
            return False
        return True

    def resolve_defaults(self, sampling: Mapping[str, Any]) -> R:
        """The request of a row without values of its own; images and clips are not opened.

        Args:
            sampling: The run's values for fields that rows omit.

        Raises:
            Refused: A value that the model does not take or support. The message names it, because no row is
                wrong.
        """
        try:
            return self._resolve_sampling(sampling)
        except RequestError as error:
            raise Refused(f"sampling.{error}") from None

    def check_defaults(self, sampling: Mapping[str, Any]) -> None:
        """As `resolve_defaults`, but rows may have values of their own instead of the model's defaults."""
        try:
            self._resolve_sampling(sampling)
        except RequestError as error:
            if sampling.get(error.field) is not None:
                raise Refused(f"sampling.{error}") from None

    def _resolve_sampling(self, sampling: Mapping[str, Any]) -> R:
        if sampling.get(FPS) is not None and self.of_task.file_fps == FPS:
            raise Refused(f"sampling.{FPS}: {self.declared[FPS].not_sampling}: leave it out")
        given = {name: value for name, value in sampling.items() if value is not None}
        of_rows = dict.fromkeys(self.required, _OF_ROWS)
        return self._resolved({**of_rows, **RenderRequest(**given).parsed(self.declared).values()})


@functools.cache
def _warn_of_contract(name: str, given: Any, asked: Any, place: str) -> None:
    """Warn, once for each pair of values."""
    logger.warning("%s is %r, but %s asks for %r", name, given, place, asked)


def _lora_scales(values: Mapping[str, Any]) -> tuple[float, ...] | None:
    """A scale for each LoRA of a row.

    Raises:
        RequestError: There are more or fewer scales than LoRAs.
    """
    loras, scales = values.get("lora"), values.get("lora_scale")
    if loras is None:
        if scales is not None:
            raise RequestError("lora_scale", scales, "the row has no lora: leave it out")
        return None
    if scales is None:
        return (1.0,) * len(loras)
    if len(scales) != len(loras):
        raise RequestError("lora_scale", scales, f"one number for each of the row's {len(loras)} LoRAs")
    return tuple(scales)


@functools.cache
def _warn_of_frames(num_frames: int, made: int) -> None:
    """Warn, once per number of frames, that another one is made; the reference pipelines round silently."""
    if made != num_frames:
        logger.warning("num_frames %d makes %d frames with this model", num_frames, made)
