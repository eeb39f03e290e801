"""What a model family declares. Nothing here imports MindSpore; lazy parts of a declaration are imported when
they are used."""

from __future__ import annotations

import importlib
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from vidgen_dist.component_config import Config, bad_key
from vidgen_dist.errors import ConfigError, Refused
from vidgen_dist.families.common.tasks import TaskRules
from vidgen_dist.request import Field
from vidgen_dist.spec import Task
from vidgen_dist.weights.checkpoint import INDEX, Checkpoint


@dataclass(frozen=True)
class Lazy:
    """An object that is imported when it is used.

    Args:
        target: `package.module:name`.
    """

    target: str

    def load(self) -> Any:
        """Import the object."""
        module, _, name = self.target.partition(":")
        return getattr(importlib.import_module(module), name)


@dataclass(frozen=True)
class TokenizerClass:
    """A tokenizer of transformers.

    Args:
        name: Its class, as `model_index.json` names it.
    """

    name: str


@dataclass(frozen=True)
class ModelClass:
    """A class of models.

    Args:
        config: The class of its `config.json`.
        cell: The model's class; called with the config, and with the mesh if it is divided.
        divided: Whether the ranks of a gang divide its work; otherwise all of them do the same.
        made_of: The field of the family's configs that the cell is made of; by default its component's.
        weights_of: Components whose files hold its weights; by default only its own.
    """

    config: type[Config]
    cell: Lazy
    divided: bool = True
    made_of: str | None = None
    weights_of: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name that `model_index.json` has for it."""
        return self.config.NAME

    def read(self, raw: Mapping[str, Any]) -> Config:
        """The component's config, for models, rules and costs."""
        return self.config.read(raw)


@dataclass(frozen=True)
class ConfigClass:
    """A class of which only the config is read: an image processor, or a part of another component's model.

    Args:
        config: The class of its config file.
        named: The name that `model_index.json` has for it; by default the config's own name.
    """

    config: type[Config]
    named: str | None = None

    @property
    def name(self) -> str:
        """The name that `model_index.json` has for it."""
        return self.named or self.config.NAME

    def read(self, raw: Mapping[str, Any]) -> Config:
        """The component's config, for the pipeline, rules and costs."""
        return self.config.read(raw)


@dataclass(frozen=True)
class SchedulerClass:
    """A class of samplers.

    Args:
        config: The class of its `scheduler_config.json`.
        scheduler: The sampler's class; called with the config.
    """

    config: type[Config]
    scheduler: Callable[[Any], Any]

    @property
    def name(self) -> str:
        """The name that `model_index.json` has for it."""
        return self.config.NAME

    def read(self, raw: Mapping[str, Any]) -> Any:
        """The sampler."""
        return self.scheduler(self.config.read(raw))


ComponentClass = ModelClass | ConfigClass | SchedulerClass | TokenizerClass


@dataclass(frozen=True)
class Component:
    """A component of a family's checkpoints.

    Args:
        name: Its name in `model_index.json`, of its folder, and of the pipeline's attribute.
        takes: The classes that it may have.
        optional: Whether a checkpoint may lack it.
    """

    name: str
    takes: tuple[ComponentClass, ...]
    optional: bool = False

    def class_of(self, checkpoint: Checkpoint) -> ComponentClass | None:
        """The class of a checkpoint's component; None if it is optional and missing.

        Raises:
            Refused: It is missing, or has another class; the message names those that are allowed.
        """
        if self.optional and not checkpoint.has_component(self.name):
            return None
        checkpoint.component_folder(self.name)
        found = checkpoint.class_name(self.name)
        for known in self.takes:
            if known.name == found:
                return known
        raise Refused(
            f"{checkpoint.names_class_of(self.name)}: {self.name} is a {found}; "
            f"allowed: {', '.join(known.name for known in self.takes)}"
        )

    def weights_in(self, checkpoint: Checkpoint) -> tuple[str, ...]:
        """The components whose files hold the weights of a checkpoint's component; none if it has no weights.

        Raises:
            Refused: As `class_of`.
        """
        found = self.class_of(checkpoint)
        return found.weights_of or (self.name,) if isinstance(found, ModelClass) else ()

    def read(self, checkpoint: Checkpoint) -> Any:
        """A checkpoint's component without its weights: a config, a sampler, otherwise None.

        Raises:
            Refused: A class or a config that is not allowed; the message names the folder and the key.
        """
        found = self.class_of(checkpoint)
        if found is None or isinstance(found, TokenizerClass):
            return None
        with config_of(checkpoint.config_file(self.name)):
            return found.read(checkpoint.config(self.name))


@dataclass(frozen=True)
class PipelineClass:
    """A class of diffusers' pipelines, as `model_index.json` names it.

    Args:
        name: The class.
        task: What it does, one of `spec.Task`.
        pipeline: Our pipeline that does the same.
    """

    name: str
    task: str
    pipeline: Lazy


class MisfitError(ConfigError):
    """Components of a checkpoint do not fit each other; the message names the key of one of them.

    Args:
        component: The name of the component that has the key.
        told: The message, as in `Config.refuse`.
    """

    def __init__(self, component: str, told: str) -> None:
        super().__init__(told)
        self.component = component


@dataclass(frozen=True)
class Configs:
    """A checkpoint's configs, one field per component.

    Families make a subclass, whose `check` says what must match.
    """

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Check that the components fit each other.

        Raises:
            ConfigError: They do not; the message names the key of one of them.
        """

    def refuse(self, component: str, config: Config, key: str, allowed: str) -> typing.NoReturn:
        """Refuse the value of a key in a component's config.

        Args:
            component: The component's name.
            config: Its config.
            key: The config's key.
            allowed: What is allowed.

        Raises:
            MisfitError: Always.
        """
        raise MisfitError(component, str(bad_key(config.NAME, key, getattr(config, key), allowed)))


C = TypeVar("C", bound=Configs)


@dataclass(frozen=True, kw_only=True)
class Family(Generic[C]):
    """A model family.

    Args:
        name: Its name in messages and documentation.
        key: The name of its folders and files.
        pipelines: diffusers' pipelines that it renders.
        components: The components of a checkpoint that are needed to render.
        configs: The class of their configs.
        rules: Takes the configs, returns task -> rules for the tasks that the checkpoint can do, likeliest
            first.
        costs: What the planner needs to know; see `common.costs.Costs`.
        required_columns: Columns that every manifest for it must have, whatever the checkpoint and the task,
            unless the run has a value for all rows.
        fields: Fields of rows that only this family takes, by name.
        index: The class for keys of `model_index.json` that have an effect; the field `index` of the configs.
        adapter: The component that `--adapter` names, in a repository of its own; None if there is none.
        denoiser: The component of the model that predicts; keys of LoRAs that name no component are for it.
        original_names: The names of its modules in the repository that first published it, for LoRAs made
            there; see `weights.lora.fit.OriginalNames`.
        ignores: Components that checkpoints may have and that are not opened, such as a safety checker.
        ring: Whether keys and values can be passed around the ranks of a gang; otherwise the degree `ring` is
            1.
        published: Hub ids of published checkpoints, for the documentation.

    Raises:
        ValueError: A pipeline's task does not exist.
    """

    name: str
    key: str
    pipelines: tuple[PipelineClass, ...]
    components: tuple[Component, ...]
    configs: type[C]
    rules: Callable[[C], Mapping[str, TaskRules[Any]]]
    costs: Lazy
    required_columns: tuple[str, ...] = ()
    fields: Mapping[str, Field] = field(default_factory=dict)
    index: type[IndexConfig] | None = None
    adapter: str | None = None
    denoiser: str = "transformer"
    original_names: Lazy | None = None
    ignores: tuple[str, ...] = ()
    ring: bool = True
    published: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        tasks = typing.get_args(Task)
        for known in self.pipelines:
            if known.task not in tasks:
                raise ValueError(
                    f"{self.name}: the task of {known.name} is {known.task!r}; allowed: {', '.join(tasks)}"
                )

    @property
    def schedulers(self) -> tuple[str, ...]:
        """The names of the scheduler classes that its checkpoints may have."""
        taken = (known for component in self.components for known in component.takes)
        return tuple(known.name for known in taken if isinstance(known, SchedulerClass))

    def read_configs(self, checkpoint: Checkpoint) -> C:
        """The configs of a checkpoint.

        Raises:
            Refused: A component, class or config that is not allowed; components that do not fit each other.
        """
        read: dict[str, Any] = {}
        for component in self.components:
            if (known := component.read(checkpoint)) is not None:
                read[component.name] = known
        with config_of(checkpoint.folder / INDEX):
            index = (self.index or IndexConfig).read(checkpoint.model_index)
        with config_of(checkpoint.folder, checkpoint.config_file):
            return self.configs(**read, **({} if self.index is None else {"index": index}))

    def unknown_keys(self, checkpoint: Checkpoint) -> list[str]:
        """One message for each unknown key in a checkpoint's configs.

        Raises:
            Refused: As `read_configs`.
        """
        told: list[tuple[Path, type[Config], Mapping[str, Any]]] = [
            (checkpoint.folder / INDEX, self.index or IndexConfig, checkpoint.model_index)
        ]
        for component in self.components:
            known = component.class_of(checkpoint)
            if known is not None and not isinstance(known, TokenizerClass):
                file = checkpoint.config_file(component.name)
                told.append((file, known.config, checkpoint.config(component.name)))
        return [
            f"{file}: config of {config.NAME}: unknown key {key}, which is not used (its value is {value!r})"
            for file, config, raw in told
            for key, value in config.unknown(raw).items()
        ]

    def pipeline_for(self, class_name: str, task: str) -> Lazy:
        """The pipeline for a task of a checkpoint.

        Args:
            class_name: The pipeline class that `model_index.json` names; preferred, if it does the task.
            task: One of the tasks that the family's rules allow for the checkpoint.

        Raises:
            Refused: None of the family's pipelines does the task: a mistake in the family's declaration.
        """
        of_task = [known for known in self.pipelines if known.task == task]
        if not of_task:
            tasks = ", ".join(dict.fromkeys(known.task for known in self.pipelines))
            raise Refused(
                f"{self.name}: its rules have the task {task!r}, which none of its pipelines does; "
                f"their tasks: {tasks}"
            )
        return next((known for known in of_task if known.name == class_name), of_task[0]).pipeline


@dataclass(frozen=True)
class IndexConfig(Config):
    """The settings in `model_index.json`; most families have none."""

    NAME: ClassVar = "model_index.json"
    HARMLESS: ClassVar = {"requires_safety_checker": "videos are not checked"}

    @classmethod
    def normalise_keys(cls, raw: Mapping[str, Any]) -> Mapping[str, Any]:
        """As `Config.normalise_keys`, without the components."""
        return {key: value for key, value in raw.items() if not isinstance(value, list)}


@contextmanager
def config_of(place: Path, file_of: Callable[[str], Path] | None = None) -> Iterator[None]:
    """Put a file's path in front of each fault of the config that is read from it.

    Args:
        place: The config's file, or the checkpoint's folder.
        file_of: Returns the file of a component that does not fit the others.
    """
    try:
        yield
    except ConfigError as error:
        if isinstance(error, MisfitError) and file_of is not None:
            place = file_of(error.component)
        raise Refused("\n".join(f"{place}: {fault}" for fault in str(error).splitlines())) from None
