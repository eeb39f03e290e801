"""What a checkpoint can render, known from its configs alone.

A manifest of a million rows is checked against these rules before any model loads, so nothing here
imports MindSpore.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic

from vidgen_dist.errors import Refused
from vidgen_dist.families import fields_for, find_family
from vidgen_dist.families.common.tasks import R, TaskRules
from vidgen_dist.families.family import Configs, Family
from vidgen_dist.request import FIELDS, Field, RenderRequest, RequestError, ResolvedRequest
from vidgen_dist.weights.checkpoint import Checkpoint


@dataclass(frozen=True)
class Rules(Generic[R]):
    """What one checkpoint, doing one task, takes from a request.

    Args:
        family: Name of the model family.
        task: The task that requests are for.
        tasks: All tasks that the checkpoint can do.
        of_task: What the family says of this task.
        declared: The fields that rows of a manifest may have, whatever the task, by name.
    """

    family: str
    task: str
    tasks: tuple[str, ...]
    of_task: TaskRules[R]
    declared: Mapping[str, Field] = dataclasses.field(default_factory=lambda: FIELDS)

    @property
    def defaults(self) -> Mapping[str, Any]:
        """Values for the fields that a request may leave out."""
        return self.of_task.defaults

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
        """The columns that every manifest must have: what a run cannot say for all rows."""
        return tuple(name for name in self.required if self.declared[name].not_sampling)

    @functools.cached_property
    def ignored(self) -> tuple[str, ...]:
        """The fields that the model does not take, and ignores where a manifest has them."""
        declared = self.declared.items()
        return tuple(name for name, field in declared if field.may_be_ignored and name not in self.fields)

    @functools.cached_property
    def takes_sources(self) -> bool:
        """Whether a request may have images or clips."""
        return any(self.declared[name].kind.has_sources for name in self.fields)

    def resolve(self, request: RenderRequest | ResolvedRequest, seed: int = 0) -> R:
        """The request with every default filled in; what it says decides the pixels.

        Args:
            request: As a row has it, or resolved already: resolving twice changes nothing.
            seed: The seed of a request that brings none.

        Raises:
            RequestError: A field that the model does not take, lacks, or cannot do.
        """
        parsed = request if isinstance(request, ResolvedRequest) else request.parsed(self.declared)
        return self._resolved(parsed.values(), seed)

    def _resolved(self, given: Mapping[str, Any], seed: int = 0) -> R:
        values = {"seed": seed, **self.defaults, **self._taken(given)}
        for name in self.required:
            if values.get(name) is None:
                raise RequestError(name, None, self._needed(name))
        for name, multiple in self.of_task.multiples.items():
            if values[name] % multiple:
                near = max(multiple, round(values[name] / multiple) * multiple)
                allowed = f"a multiple of {multiple} for this model, such as {near}"
                raise RequestError(name, values[name], allowed)
        resolved = self.of_task.request(**values)
        self.of_task.check(resolved)
        return resolved

    def _taken(self, given: Mapping[str, Any]) -> dict[str, Any]:
        taken = dict(given)
        for name in given.keys() - self.fields:
            if name not in self.ignored:
                allowed = f"{self.family} {self.task} does not take it: leave it out"
                raise RequestError(name, given[name], allowed)
            del taken[name]
        return taken

    def _needed(self, name: str) -> str:
        kind = self.declared[name].kind
        return f"{self.task} needs one in every row" if kind.has_sources else kind.allowed

    def resolve_defaults(self, sampling: Mapping[str, Any]) -> R:
        """The request of a row that says nothing of its own; what it is conditioned on is not opened.

        Args:
            sampling: The run's values of fields where rows have none.

        Raises:
            Refused: One that the model does not take, or cannot do: names it, for no row is to blame.
        """
        try:
            return self._resolve_sampling(sampling)
        except RequestError as error:
            raise Refused(f"sampling.{error}") from None

    def check_defaults(self, sampling: Mapping[str, Any]) -> None:
        """As `resolve_defaults`, but rows may have a value of their own in place of the model's default."""
        try:
            self._resolve_sampling(sampling)
        except RequestError as error:
            if sampling.get(error.field) is not None:
                raise Refused(f"sampling.{error}") from None

    def _resolve_sampling(self, sampling: Mapping[str, Any]) -> R:
        given = {name: value for name, value in sampling.items() if value is not None}
        of_rows = dict.fromkeys(self.required, "of each row")
        return self._resolved({**of_rows, **RenderRequest(**given).parsed(self.declared).values()})


def load_rules(checkpoint: Checkpoint, task: str | None = None, adapter: str | None = None) -> Rules[Any]:
    """Read what a checkpoint can render from its configs.

    Args:
        checkpoint: An opened checkpoint; its weights are not needed.
        task: One of the tasks of `common.tasks`; by default what `model_index.json` says.
        adapter: A motion adapter.

    Raises:
        Refused: A family, task or config that cannot be rendered, with what is allowed.
    """
    family = find_family(checkpoint)
    return choose_rules(checkpoint, family, family.read_configs(checkpoint), task, adapter)


def choose_rules(
    checkpoint: Checkpoint,
    family: Family[Any],
    configs: Configs,
    task: str | None = None,
    adapter: str | None = None,
) -> Rules[Any]:
    """As `load_rules`, where the family's configs are read already."""
    if adapter is not None:
        raise Refused(f"model.adapter: {adapter!r} is not allowed; {family.name} takes none: leave it out")
    by_task = family.rules(configs)
    if task is None:
        class_name = checkpoint.model_index["_class_name"]
        declared = next(known.task for known in family.pipelines if known.name == class_name)
        task = declared if declared in by_task else next(iter(by_task))
    if task not in by_task:
        raise Refused(
            f"{checkpoint.model}: task {task!r} is not one that this checkpoint can do; "
            f"allowed: {', '.join(by_task)}"
        )
    return Rules(family.name, task, tuple(by_task), by_task[task], fields_for(family))


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
