"""What a model family declares. Nothing here imports MindSpore; what a declaration names lazily is imported
when it is used."""

from __future__ import annotations

import importlib
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from vidgen_dist.config import Config, bad_key
from vidgen_dist.errors import ConfigError, Refused
from vidgen_dist.families.common.tasks import TaskRules
from vidgen_dist.request import Field
from vidgen_dist.spec import Task
from vidgen_dist.weights.checkpoint import INDEX, Checkpoint


@dataclass(frozen=True)
class Lazy:
    """Something that is imported when it is used.

    Args:
        target: `package.module:name`.
    """

    target: str

    def load(self) -> Any:
        """What the name stands for."""
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
        config: What its `config.json` holds.
        cell: The model's class; it is made of the config, or where it is divided of the config and the mesh.
        divided: Whether the ranks of a gang divide its work; else all of them do the same.
        made_of: The attribute of the family's configs that the cell is made of; by default its component's.
        weights_of: Components whose files hold its weights; by default its own alone.
    """

    config: type[Config]
    cell: Lazy
    divided: bool = True
    made_of: str | None = None
    weights_of: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As `model_index.json` names it."""
        return self.config.NAME

    def read(self, raw: Mapping[str, Any]) -> Config:
        """What the models, rules and costs are told of the component."""
        return self.config.read(raw)


@dataclass(frozen=True)
class ConfigClass:
    """A class of which the config alone is read: an image processor, or a part of another component's model.

    Args:
        config: What its file holds.
        named: What `model_index.json` calls it; by default the config's own name.
    """

    config: type[Config]
    named: str | None = None

    @property
    def name(self) -> str:
        """As `model_index.json` names it."""
        return self.named or self.config.NAME

    def read(self, raw: Mapping[str, Any]) -> Config:
        """What the pipeline, rules and costs are told of the component."""
        return self.config.read(raw)


@dataclass(frozen=True)
class SchedulerClass:
    """A class of samplers.

    Args:
        config: What its `scheduler_config.json` holds.
        scheduler: The sampler, made of the config.
    """

    config: type[Config]
    scheduler: Callable[[Any], Any]

    @property
    def name(self) -> str:
        """As `model_index.json` names it."""
        return self.config.NAME

    def read(self, raw: Mapping[str, Any]) -> Any:
        """The sampler."""
        return self.scheduler(self.config.read(raw))


ComponentClass = ModelClass | ConfigClass | SchedulerClass | TokenizerClass


@dataclass(frozen=True)
class Component:
    """A component of a family's checkpoints.

    Args:
        name: Its name in `model_index.json`, which is its folder's, and its attribute of the pipeline.
        takes: The classes that it may be of.
        optional: Whether a checkpoint may lack it.
    """

    name: str
    takes: tuple[ComponentClass, ...]
    optional: bool = False

    def class_of(self, checkpoint: Checkpoint) -> ComponentClass | None:
        """The class that a checkpoint's component is of; None where it may lack it, and does.

        Raises:
            Refused: It has none, or one of another class: names those that are allowed.
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
        """The components whose files hold the weights of a checkpoint's component; none where it has none.

        Raises:
            Refused: As `class_of`.
        """
        found = self.class_of(checkpoint)
        return found.weights_of or (self.name,) if isinstance(found, ModelClass) else ()

    def read(self, checkpoint: Checkpoint) -> Any:
        """What a checkpoint's component is, without its weights: a config, a sampler, of others None.

        Raises:
            Refused: A class or a config that cannot be: names the folder and the key.
        """
        found = self.class_of(checkpoint)
        if found is None or isinstance(found, TokenizerClass):
            return None
        with config_of(checkpoint.config_file(self.name)):
            return found.read(checkpoint.config(self.name))


@dataclass(frozen=True)
class PipelineClass:
    """A class of diffusers' pipelines, which `model_index.json` names.

    Args:
        name: The class.
        task: What it does: one of `spec.Task`.
        pipeline: The pipeline that does the same.
    """

    name: str
    task: str
    pipeline: Lazy


class MisfitError(ConfigError):
    """Components of a checkpoint that do not fit each other: names the key of one of them.

    Args:
        component: The name of the component that has the key.
        told: The message, as `Config.refuse` has it.
    """

    def __init__(self, component: str, told: str) -> None:
        super().__init__(told)
        self.component = component


@dataclass(frozen=True)
class Configs:
    """What is known of a checkpoint without its weights: a field for each component, by its name.

    Families make a subclass, whose `check` says what must fit.
    """

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """See that the components fit each other.

        Raises:
            ConfigError: They do not: names the key of one of them.
        """

    def refuse(self, component: str, config: Config, key: str, allowed: str) -> typing.NoReturn:
        """Refuse the value of a key of a component's config.

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
        name: What messages and documents call it.
        key: What its folders and files are called.
        pipelines: diffusers' pipelines that it stands for.
        components: What of a checkpoint is needed to render.
        configs: What is read of them.
        rules: Configs -> task -> rules, for the tasks that the checkpoint can do, likeliest first.
        costs: What a plan reckons with; see `common.costs.Costs`.
        required_columns: Columns that every manifest for it must have, whatever the checkpoint and the task,
            unless the run has a value for all rows.
        fields: Fields of rows that the family alone takes, by name.
        index: Keys of `model_index.json` that decide something; the field `index` of the configs.
        adapter: The component that `--adapter` names, in a repository of its own; None: there is none.
        ignores: Components that checkpoints may have and that are not opened, such as a safety checker.
        ring: Whether keys and values may travel around a gang's ranks; else the degree `ring` is 1.
        published: Hub ids of checkpoints, for documents.

    Raises:
        ValueError: A pipeline's task is none that there is.
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

    def read_configs(self, checkpoint: Checkpoint) -> C:
        """The configs of a checkpoint.

        Raises:
            Refused: A component, class or config that cannot be; components that do not fit each other.
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
        """What is to be said of keys of a checkpoint's configs that nobody knows, a line for each.

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
            f"{file}: config of {config.NAME}: {key} is not known and not used (its value is {value!r})"
            for file, config, raw in told
            for key, value in config.unknown(raw).items()
        ]

    def pipeline_for(self, class_name: str, task: str) -> Lazy:
        """The pipeline for a task of a checkpoint.

        Args:
            class_name: The pipeline class that `model_index.json` names; it is taken if it does the task.
            task: One of those that the family's rules have for the checkpoint.

        Raises:
            Refused: None of the family's pipelines does the task: the family declares it wrongly.
        """
        of_task = [known for known in self.pipelines if known.task == task]
        if not of_task:
            tasks = ", ".join(dict.fromkeys(known.task for known in self.pipelines))
            raise Refused(
                f"{self.name}: its rules have the task {task!r}, which none of its pipelines does; "
                f"theirs: {tasks}"
            )
        return next((known for known in of_task if known.name == class_name), of_task[0]).pipeline


@dataclass(frozen=True)
class IndexConfig(Config):
    """What `model_index.json` decides; of most families nothing."""

    NAME: ClassVar = "model_index.json"
    HARMLESS: ClassVar = {"requires_safety_checker": "no video is checked"}

    @classmethod
    def spelled(cls, raw: Mapping[str, Any]) -> Mapping[str, Any]:
        """As `Config.spelled`, without the components."""
        return {key: value for key, value in raw.items() if not isinstance(value, list)}


@contextmanager
def config_of(place: Path, file_of: Callable[[str], Path] | None = None) -> Iterator[None]:
    """Put the file before each fault of a config that was read from it.

    Args:
        place: The config's file, or the checkpoint's folder.
        file_of: Gives the file of a component that does not fit others.
    """
    try:
        yield
    except ConfigError as error:
        if isinstance(error, MisfitError) and file_of is not None:
            place = file_of(error.component)
        raise Refused("\n".join(f"{place}: {fault}" for fault in str(error).splitlines())) from None
