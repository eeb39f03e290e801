"""What renders: the seam between the runtime and the models.

An engine is a module with two functions: `open_model`, called by the driver, which must not load the
model, and `load`, called once in each worker. This one is the engine; tests bring a fast one of their own.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

from vidgen_dist.errors import Refused
from vidgen_dist.pipelines.rules import Rules, compute_dtype, load_rules
from vidgen_dist.spec import Model
from vidgen_dist.weights.checkpoint import open_checkpoint

if TYPE_CHECKING:
    from vidgen_dist.pipelines.rendering import Pipeline

ENGINE = __name__


@dataclass(frozen=True)
class OpenedModel:
    """What the driver knows of a model.

    Args:
        rules: What it takes from a request.
        digest: SHA-256 of all that decides the model.
        revision: The commit that a hub id's revision stands for; None for a folder.
        dtype: What it computes in.
    """

    rules: Rules
    digest: str
    revision: str | None
    dtype: str


def get_engine(name: str) -> ModuleType:
    """The engine of that module name."""
    return importlib.import_module(name)


def open_model(model: Model, device: str) -> OpenedModel:
    """Read a checkpoint's configs; no MindSpore, no weights in memory.

    Args:
        model: Which one.
        device: `cpu` or `ascend`.

    Raises:
        Refused: A checkpoint, task or dtype that cannot be rendered with.
    """
    # Workers download the weights of a hub id, each host once.
    checkpoint = open_checkpoint(model.id, revision=model.revision, variant=model.variant, weights=False)
    rules = load_rules(checkpoint, model.task)
    if model.adapter is not None:
        raise Refused(
            f"model.adapter: {model.adapter!r} is not allowed; {rules.family} takes none: leave it out"
        )
    return OpenedModel(
        rules=rules,
        digest=checkpoint.digest(),
        revision=checkpoint.revision,
        dtype=compute_dtype(model.dtype, device),
    )


def load(model: Model, device: str, threads: int | None) -> Pipeline:
    """Load the model in this process, for its life.

    Args:
        model: Which one, its revision a commit.
        device: `cpu` or `ascend`.
        threads: Cores to compute with; None for the device's own choice.
    """
    # A driver, and a worker until its cores are set, must not load MindSpore.
    from vidgen_dist import nn
    from vidgen_dist.pipelines.loading import load_pipeline

    nn.set_device(device, threads)
    return load_pipeline(
        model.id,
        task=model.task,
        revision=model.revision,
        variant=model.variant,
        dtype=model.dtype,
        adapter=model.adapter,
    )
