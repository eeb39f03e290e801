"""The engine: the seam between the runtime and the models.

An engine is a module with the functions of `Engine`. The driver, which must not load the model, calls
`open_model`, then `start_check`, then `choose_gangs` or `check_memory`. A worker calls `load` once, after
`open_rendezvous` if it is a rank of a gang; an actor of `vidgen encode` calls `load_prompt_encoder`. This
module is the engine of the models; tests have a fast engine of their own. `check_tokenizers` and
`unknown_lora_keys` are for commands without a run.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from vidgen_dist.families import checkpoints
from vidgen_dist.families.checkpoints import open_model_checkpoint, scheduler_settings, warn_unknown_keys
from vidgen_dist.families.common.rendering import OnProgress, OnState, Rendering, ResumeState
from vidgen_dist.families.common.tasks import Rules
from vidgen_dist.families.rules import compute_dtype, load_rules
from vidgen_dist.processes import run_in_process, start_in_process
from vidgen_dist.request import ResolvedRequest
from vidgen_dist.spec import LoraOptions, ModelOptions, RunSpec
from vidgen_dist.storage.uris import to_record
from vidgen_dist.weights.checkpoint import Checkpoint
from vidgen_dist.weights.digests import digest_of

if TYPE_CHECKING:
    from vidgen_dist.families.loader import AnyPipeline
    from vidgen_dist.parallel.degrees import Degrees
    from vidgen_dist.parallel.mesh import Mesh
    from vidgen_dist.parallel.rendezvous import Rendezvous

ENGINE = __name__

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OpenedModel:
    """What the driver knows about a model.

    Args:
        rules: What it takes from a request.
        digest: SHA-256 of all that decides the model, without its motion adapter.
        revision: The commit that a hub id's revision means; None for a folder.
        dtype: Its compute dtype.
        adapter_digest: SHA-256 of all that decides its motion adapter; None if it has none.
        adapter_revision: The commit that the adapter's revision means; None for a folder.
        loras: Its LoRAs, each with its commit and digest.
        scheduler: Settings over the checkpoint's scheduler config: the run's, or a sampling contract's.
    """

    rules: Rules[Any]
    digest: str
    revision: str | None
    dtype: str
    adapter_digest: str | None = None
    adapter_revision: str | None = None
    loras: tuple[LoraOptions, ...] = ()
    scheduler: Mapping[str, Any] | None = None

    @property
    def whole_digest(self) -> str:
        """SHA-256 of all that decides the model without LoRAs."""
        if self.adapter_digest is None:
            return self.digest
        return digest_of({"model": self.digest, "adapter": self.adapter_digest})

    @property
    def decided(self) -> dict[str, Any]:
        """What every worker must take alike, by the spec's keys."""
        return {
            "model.task": self.rules.task,
            "model.revision": self.revision,
            "model.digest": self.digest if self.revision is None else None,
            "model.adapter_revision": self.adapter_revision,
            "model.loras": [lora.model_dump(exclude_none=True) for lora in self.loras],
        }

    @property
    def recorded(self) -> dict[str, Any]:
        """Its values in `run.yaml`, by the spec's keys: the commit of a hub id, the digest of a folder."""
        adapter = self.adapter_digest if self.adapter_revision is None else None
        return {
            **self.decided,
            "model.adapter_digest": adapter,
            "model.loras": [{**lora, "id": to_record(lora["id"])} for lora in self.decided["model.loras"]],
        }


class Pipeline(Protocol):
    """A loaded model, as a worker calls it; `families.common.pipeline` describes the arguments."""

    def render(
        self,
        request: ResolvedRequest,
        /,
        on_progress: OnProgress | None = None,
        *,
        resume: ResumeState | None = None,
        on_state: OnState | None = None,
    ) -> Rendering: ...


class PromptEncoder(Protocol):
    """Text encoders with a prompt store."""

    def encode_prompts(self, request: ResolvedRequest, /) -> object:
        """Encode a request's prompts where the store lacks them, and keep them there.

        Raises:
            RowError: The request cannot be encoded.
        """


class Engine(Protocol):
    """The functions of an engine that the runtime calls; those of this module describe them."""

    def open_model(self, model: ModelOptions, device: str, ring: int = 1, /) -> OpenedModel: ...

    def start_check(self, model: ModelOptions, /) -> Callable[[], None]: ...

    def choose_gangs(self, spec: RunSpec, device: str, npus: int, rows: int, /) -> tuple[int, Degrees]: ...

    def check_memory(self, spec: RunSpec, device: str, npus: int, /) -> None: ...

    def open_rendezvous(self, device: str, threads: int | None, host: str, /) -> Rendezvous: ...

    def load(
        self, model: ModelOptions, device: str, threads: int | None, mesh: Mesh | None, /
    ) -> Pipeline: ...

    def load_prompt_encoder(
        self, model: ModelOptions, device: str, threads: int | None, /
    ) -> PromptEncoder: ...


def get_engine(name: str) -> Engine:
    """The engine of that module name."""
    return cast(Engine, importlib.import_module(name))


def open_model(model: ModelOptions, device: str, ring: int = 1) -> OpenedModel:
    """Read a checkpoint's configs, without MindSpore and without weights in memory.

    Args:
        model: The checkpoint.
        device: `cpu` or `ascend`.
        ring: Ranks of a gang around which keys and values travel.

    Raises:
        Refused: The checkpoint, task, dtype or ring is not supported.
    """
    checkpoint = _open_configs(model)
    # Not where configs are read: each worker does that.
    warn_unknown_keys(checkpoint)
    adapter = next(iter(checkpoint.separate.values()), None)
    return OpenedModel(
        rules=load_rules(checkpoint, model.task, ring=ring),
        digest=checkpoint.digest(),
        revision=checkpoint.revision,
        dtype=compute_dtype(model.dtype, device),
        adapter_digest=None if adapter is None else adapter.digest(),
        adapter_revision=None if adapter is None else adapter.revision,
        loras=tuple(
            options.model_copy(update={"revision": lora.revision, "digest": lora.digest})
            for options, lora in zip(model.loras, checkpoint.loras, strict=True)
        ),
        scheduler=scheduler_settings(checkpoint, model),
    )


def check_tokenizers(model: ModelOptions) -> None:
    """Check that a checkpoint's tokenizers can be read, without MindSpore.

    Args:
        model: The checkpoint.

    Raises:
        Refused: A tokenizer is missing or damaged.
    """
    checkpoints.check_tokenizers(_open_configs(model))


def start_check(model: ModelOptions) -> Callable[[], None]:
    """Begin to check that a checkpoint's tokenizers can be read, and that its weights fit its models.

    Weights that are not on this machine yet are left to the workers.

    The check runs in a process of its own, for a few seconds: otherwise the driver would keep the memory that
    MindSpore takes, as long as it runs.

    Args:
        model: The checkpoint, its revision a commit.

    Returns:
        A function that waits for the check's end, and raises `Refused` if weights do not fit, with keys and
        shapes, or a config or tokenizer is wrong.
    """

    def leave_to_workers(error: BaseException) -> None:
        logger.warning("model %s could not be checked here (%s); the workers do", model.id, error)

    try:
        checked = start_in_process(_check_models, model)
    except OSError as error:
        leave_to_workers(error)
        return lambda: None

    def finish() -> None:
        try:
            checked.result()
        except (BrokenExecutor, ImportError, OSError) as error:
            leave_to_workers(error)

    return finish


def _check_models(model: ModelOptions) -> None:
    checkpoint = _open_configs(model)
    checkpoints.check_tokenizers(checkpoint)
    # Loads MindSpore.
    from vidgen_dist.families.loader import check_models

    check_models(checkpoint, model)


def unknown_lora_keys(model: ModelOptions) -> list[str]:
    """The keys of a model's LoRAs that fit nothing in it; in a process of its own, as `start_check`.

    Args:
        model: The checkpoint and its LoRAs.

    Raises:
        Refused: The checkpoint or a LoRA cannot be opened, or matrices of other shapes.
    """
    return run_in_process(_unknown_lora_keys, model)


def _unknown_lora_keys(model: ModelOptions) -> list[str]:
    # Loads MindSpore.
    from vidgen_dist.families.loader import unknown_lora_keys

    return unknown_lora_keys(open_model_checkpoint(model), model)


def load_prompt_encoder(model: ModelOptions, device: str, threads: int | None) -> PromptEncoder:
    """Load a model's text encoders in this process, to fill its prompt store.

    Args:
        model: The checkpoint, with a prompt store.
        device, threads: See `load`.

    Raises:
        Refused: As `load`.
    """
    from vidgen_dist import nn
    from vidgen_dist.families.loader import load_encoders

    nn.set_device(device, threads)
    return load_encoders(model)


def choose_gangs(spec: RunSpec, device: str, npus: int, rows: int) -> tuple[int, Degrees]:
    """The number of gangs and their degrees that are fastest for a run.

    Args:
        spec: The run, its model's revision a commit.
        device: `cpu` or `ascend`.
        npus: NPUs that it may use; on CPU, cores.
        rows: Number of videos to be rendered.

    Raises:
        Refused: The model does not fit, however it is divided.
    """
    from vidgen_dist.planner.planned_run import choose_topology

    checkpoint = _open_configs(spec.model)
    return choose_topology(checkpoint, load_rules(checkpoint, spec.model.task), spec, npus, device, rows)


def check_memory(spec: RunSpec, device: str, npus: int) -> None:
    """Check that a rank of the gangs that a run asks for has enough memory.

    Args:
        spec, device, npus: See `choose_gangs`.

    Raises:
        Refused: It has not: gives the numbers and the nearest choice that works.
    """
    from vidgen_dist.planner import planned_run

    checkpoint = _open_configs(spec.model)
    planned_run.check_memory(checkpoint, load_rules(checkpoint, spec.model.task), spec, npus, device)


def _open_configs(model: ModelOptions) -> Checkpoint:
    # The workers download the weights of a hub id, once per host.
    return open_model_checkpoint(model, weights=False)


def open_rendezvous(device: str, threads: int | None, host: str) -> Rendezvous:
    """Make this process ready to be a rank of a gang, for as long as it lives.

    Args:
        device: `cpu` or `ascend`.
        threads: Cores to compute with; None for the device's own choice.
        host: IP address of this host, as the other ranks reach it.
    """
    from vidgen_dist import nn
    from vidgen_dist.parallel import rendezvous

    # A process group is created on a device, which must be set before.
    nn.set_device(device, threads)
    return rendezvous.open_rendezvous(device, host)


def load(model: ModelOptions, device: str, threads: int | None, mesh: Mesh | None) -> AnyPipeline:
    """Load the model in this process, for as long as it lives.

    Args:
        model: The checkpoint, its revision a commit.
        device: `cpu` or `ascend`.
        threads: Cores to compute with; None for the device's own choice.
        mesh: This rank's view of its gang; None for a gang of one.
    """
    # A driver, and a worker until its cores are set, must not load MindSpore.
    from vidgen_dist import nn
    from vidgen_dist.families.loader import load_model

    nn.set_device(device, threads)
    return load_model(model, mesh)


if TYPE_CHECKING:
    # Here mypy checks that this module is an engine.
    from vidgen_dist import engine as this_module

    _: Engine = this_module
