"""What a checkpoint can render, known from its configs alone.

A manifest of a million rows is checked against these rules before any model loads, so nothing here
imports MindSpore. Each family has one function that reads its configs into a `Rules` value.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidgen_dist.errors import ConfigError, Refused
from vidgen_dist.families.cogvideox import rules as cogvideox_rules
from vidgen_dist.families.common.tasks import (
    IMAGE_TO_VIDEO,
    MEDIA_OF_TASK,
    TEXT_TO_VIDEO,
    VIDEO_TO_VIDEO,
    TaskRules,
)
from vidgen_dist.families.hunyuan_video import rules as hunyuan_video_rules
from vidgen_dist.families.ltx import rules as ltx_rules
from vidgen_dist.families.mochi import rules as mochi_rules
from vidgen_dist.request import FIELDS, RenderRequest, RequestError
from vidgen_dist.weights.checkpoint import Checkpoint

_PLAIN_FIELDS = ("prompt", "id", "seed", "fps")


@dataclass(frozen=True)
class Rules:
    """What one checkpoint, doing one task, takes from a request.

    Args:
        family: Name of the model family.
        task: The task that requests are for.
        tasks: All tasks that the checkpoint can do.
        of_task: What the family says of this task.
    """

    family: str
    task: str
    tasks: tuple[str, ...]
    of_task: TaskRules

    @property
    def defaults(self) -> Mapping[str, Any]:
        """Values for the fields that a request may leave out."""
        return self.of_task.defaults

    @property
    def media(self) -> str | None:
        """The field that every request needs beside the prompt: `image`, `video` or none."""
        return MEDIA_OF_TASK.get(self.task)

    @property
    def fields(self) -> frozenset[str]:
        """Every field that a request may have."""
        media = (self.media,) if self.media else ()
        return frozenset((*_PLAIN_FIELDS, *self.defaults, *self.of_task.optional, *media))

    def resolve(self, request: RenderRequest) -> RenderRequest:
        """The request with every default filled in; what it says decides the pixels.

        Resolving twice changes nothing.

        Raises:
            RequestError: A field that the model does not take, lacks, or cannot do.
        """
        fields, given = self.fields, request.values()
        if "prompt" in fields and "prompt" not in given:
            raise RequestError("prompt", None, FIELDS["prompt"].kind.allowed)
        if self.media is not None and self.media not in given:
            raise RequestError(self.media, None, f"{self.task} needs one in every row")
        changed: dict[str, Any] = {}
        for field, value in given.items():
            if field in fields:
                continue
            if field not in FIELDS or not FIELDS[field].may_be_ignored:
                raise RequestError(field, value, f"{self.family} {self.task} does not take it: leave it out")
            changed[field] = None
        changed |= {k: v for k, v in self.defaults.items() if k not in given}
        resolved = dataclasses.replace(request, **changed)
        for field, multiple in self.of_task.multiples.items():
            value = getattr(resolved, field)
            if value % multiple:
                near = max(multiple, round(value / multiple) * multiple)
                raise RequestError(field, value, f"a multiple of {multiple} for this model, such as {near}")
        self.of_task.check(resolved)
        return resolved

    def resolve_defaults(self, sampling: Mapping[str, Any]) -> RenderRequest:
        """The request of a row that says nothing of its own; what it is conditioned on is not opened.

        Args:
            sampling: The run's values of fields where rows have none.

        Raises:
            Refused: One that the model does not take, or cannot do: names it, for no row is to blame.
        """
        try:
            return self._resolve_given(_given(sampling))
        except RequestError as error:
            raise Refused(f"sampling.{error}") from None

    def check_defaults(self, sampling: Mapping[str, Any]) -> None:
        """As `resolve_defaults`, but rows may have a value of their own in place of the model's default."""
        given = _given(sampling)
        try:
            self._resolve_given(given)
        except RequestError as error:
            if error.field in given:
                raise Refused(f"sampling.{error}") from None

    def _resolve_given(self, given: Mapping[str, Any]) -> RenderRequest:
        media = {} if self.media is None else {self.media: "of each row"}
        return self.resolve(RenderRequest(**{"prompt": "", **media, **given}))


def _given(sampling: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in sampling.items() if value is not None}


@dataclass(frozen=True)
class Family:
    """A model family as `model_index.json` names it.

    Args:
        name: The family's name.
        pipeline_tasks: diffusers' pipeline class -> the task that it does.
        components: Components of `model_index.json` that rendering needs.
        read: Checkpoint -> task -> rules, for the tasks that the checkpoint can do, likeliest first.
    """

    name: str
    pipeline_tasks: Mapping[str, str]
    components: tuple[str, ...]
    read: Callable[[Checkpoint], Mapping[str, TaskRules]]


FAMILIES: tuple[Family, ...] = (
    Family(
        name="CogVideoX",
        pipeline_tasks={
            "CogVideoXPipeline": TEXT_TO_VIDEO,
            "CogVideoXImageToVideoPipeline": IMAGE_TO_VIDEO,
            "CogVideoXVideoToVideoPipeline": VIDEO_TO_VIDEO,
        },
        components=("tokenizer", "text_encoder", "transformer", "vae", "scheduler"),
        read=cogvideox_rules.read,
    ),
    Family(
        name="LTX-Video",
        pipeline_tasks={"LTXPipeline": TEXT_TO_VIDEO, "LTXImageToVideoPipeline": IMAGE_TO_VIDEO},
        components=("tokenizer", "text_encoder", "transformer", "vae", "scheduler"),
        read=ltx_rules.read,
    ),
    Family(
        name="HunyuanVideo",
        pipeline_tasks={"HunyuanVideoPipeline": TEXT_TO_VIDEO},
        components=(
            "tokenizer",
            "tokenizer_2",
            "text_encoder",
            "text_encoder_2",
            "transformer",
            "vae",
            "scheduler",
        ),
        read=hunyuan_video_rules.read,
    ),
    Family(
        name="Mochi",
        pipeline_tasks={"MochiPipeline": TEXT_TO_VIDEO},
        components=("tokenizer", "text_encoder", "transformer", "vae", "scheduler"),
        read=mochi_rules.read,
    ),
)


def find_family(checkpoint: Checkpoint) -> Family:
    """The family that a checkpoint's `model_index.json` names.

    Raises:
        Refused: No family renders its pipeline class.
    """
    class_name = checkpoint.model_index.get("_class_name")
    for family in FAMILIES:
        if isinstance(class_name, str) and class_name in family.pipeline_tasks:
            return family
    known = ", ".join(sorted(c for f in FAMILIES for c in f.pipeline_tasks))
    raise Refused(
        f"{checkpoint.folder / 'model_index.json'}: _class_name {class_name!r} is not a pipeline that "
        f"vidgen renders; allowed: {known}"
    )


@contextmanager
def config_of(folder: Path) -> Iterator[None]:
    """Put the folder before what is wrong with a config that was read from it."""
    try:
        yield
    except ConfigError as error:
        raise Refused(f"{folder}: {error}") from None


def load_rules(checkpoint: Checkpoint, task: str | None = None) -> Rules:
    """Read what a checkpoint can render from its configs.

    Args:
        checkpoint: An opened checkpoint; its weights are not needed.
        task: One of the tasks of `pipelines.tasks`; by default what `model_index.json` says.

    Raises:
        Refused: A family, task or config that cannot be rendered, with what is allowed.
    """
    family = find_family(checkpoint)
    for component in family.components:
        checkpoint.component_folder(component)
    with config_of(checkpoint.folder):
        by_task = family.read(checkpoint)
    if task is None:
        declared = family.pipeline_tasks[checkpoint.model_index["_class_name"]]
        task = declared if declared in by_task else next(iter(by_task))
    if task not in by_task:
        raise Refused(
            f"{checkpoint.model}: task {task!r} is not one that this checkpoint can do; "
            f"allowed: {', '.join(by_task)}"
        )
    return Rules(family=family.name, task=task, tasks=tuple(by_task), of_task=by_task[task])


def compute_dtype(dtype: str | None, device: str) -> str:
    """The dtype that models compute in on a device.

    Raises:
        Refused: The device cannot compute in it.
    """
    if dtype is None:
        return "float32" if device == "cpu" else "bfloat16"
    name = _DTYPES.get(dtype)
    if name is None:
        raise Refused(f"dtype {dtype!r} is not one of {', '.join(_DTYPES)}")
    if device == "cpu" and name != "float32":
        raise Refused(f"dtype {dtype!r}: MindSpore's CPU kernels compute in float32 alone; leave dtype out")
    return name


_DTYPES = {
    "float32": "float32",
    "fp32": "float32",
    "float16": "float16",
    "fp16": "float16",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
}
