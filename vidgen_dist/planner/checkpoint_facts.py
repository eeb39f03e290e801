"""What a checkpoint is and what it takes, from its configs and the headers of its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vidgen_dist.families import find_family
from vidgen_dist.families.checkpoints import open_model_checkpoint, warn_unknown_keys
from vidgen_dist.families.common.costs import ITEM_SIZES
from vidgen_dist.families.common.tasks import Rules
from vidgen_dist.families.family import Family
from vidgen_dist.families.rules import load_rules
from vidgen_dist.families.taken import TakenField, TakenSizes, taken_fields, taken_sizes
from vidgen_dist.planner.devices import Device, load_devices
from vidgen_dist.planner.planned_run import PlannedRun, read_planned_run
from vidgen_dist.spec import ModelOptions, RunSpec, spec_from_flags
from vidgen_dist.weights.checkpoint import Checkpoint
from vidgen_dist.weights.stored import StoredWeights, stored_weights


@dataclass(frozen=True)
class ComponentFacts:
    """A component of a checkpoint.

    Args:
        name: Its name in `model_index.json`.
        class_name: Its class there.
        parameters: Parameters of its model, as it is built; None without a model of its own.
        bytes: Bytes of these in the dtype in which Ascend computes; likewise.
        stored: Its weights as the files hold them; None without weights, or if nothing is known of them.
    """

    name: str
    class_name: str
    parameters: int | None
    bytes: int | None
    stored: StoredWeights | None


@dataclass(frozen=True)
class TaskFacts:
    """What a checkpoint takes from a row for one task.

    Args:
        task: The task.
        fields: The fields that it takes.
        sizes: Sizes and numbers of frames that it takes.
    """

    task: str
    fields: tuple[TakenField, ...]
    sizes: TakenSizes


@dataclass(frozen=True)
class GangFacts:
    """The smallest gang that renders one video of the checkpoint's own size.

    Args:
        device: The NPUs' name.
        dtype: Dtype of weights and activations.
        ranks: Ranks of the gang; None if no gang fits.
    """

    device: str
    dtype: str
    ranks: int | None


@dataclass(frozen=True)
class CheckpointFacts:
    """A checkpoint.

    Args:
        model: Hub id or folder, as the user named it.
        revision: The commit of a hub id; None for a folder.
        family: Name of its family.
        pipeline: The class that `model_index.json` names.
        dtype: In which Ascend computes, unless a run says otherwise.
        tasks: What it takes for each task, the one that it renders by default first.
        components: Its components, in the family's order.
        gangs: The smallest gang for the first task, on each device.
        contract: The file that says how it is to be sampled; None if there is none.
    """

    model: str
    revision: str | None
    family: str
    pipeline: str
    dtype: str
    tasks: tuple[TaskFacts, ...]
    components: tuple[ComponentFacts, ...]
    gangs: tuple[GangFacts, ...]
    contract: str | None


def inspect_checkpoint(options: ModelOptions) -> CheckpointFacts:
    """Find out what a checkpoint is; configs alone are downloaded. Imports MindSpore to count parameters.

    Args:
        options: The checkpoint, and what is put over it.

    Raises:
        Refused: It cannot be opened, is of no known family, or has configs that are not allowed.
    """
    checkpoint = open_model_checkpoint(options, weights=False)
    warn_unknown_keys(checkpoint)
    family = find_family(checkpoint)
    rules = load_rules(checkpoint, options.task)
    run = read_planned_run(checkpoint, rules, _run_of(options), "ascend")
    others = [load_rules(checkpoint, task) for task in rules.tasks if task != rules.task]
    return CheckpointFacts(
        model=checkpoint.model,
        revision=checkpoint.revision,
        family=family.name,
        pipeline=checkpoint.model_index["_class_name"],
        dtype=run.dtype,
        tasks=tuple(map(_task, (rules, *others))),
        components=tuple(_components(checkpoint, family, run)),
        gangs=tuple(_gang(run, device) for device in load_devices().values()),
        contract=None if checkpoint.contract is None else checkpoint.contract.place,
    )


def _run_of(options: ModelOptions) -> RunSpec:
    """A run of the checkpoint as the planner needs one: nothing is read or written."""
    empty = spec_from_flags({"model.id": options.id, "manifest.uri": "none", "output.uri": "none"})
    return empty.model_copy(update={"model": options})


def _task(rules: Rules[Any]) -> TaskFacts:
    return TaskFacts(rules.task, taken_fields(rules), taken_sizes(rules))


def _components(checkpoint: Checkpoint, family: Family[Any], run: PlannedRun) -> list[ComponentFacts]:
    counted = {part.name: part.parameters for part in run.size.components}
    there = [part for part in family.components if part.class_of(checkpoint) is not None]
    holders = {holder for part in there for holder in part.weights_in(checkpoint)}
    stored = stored_weights(checkpoint, [part.name for part in there if part.name in holders])
    return [
        ComponentFacts(
            name=part.name,
            class_name=checkpoint.class_name(part.name),
            parameters=counted.get(part.name),
            bytes=counted[part.name] * ITEM_SIZES[run.dtype] if part.name in counted else None,
            stored=stored.get(part.name),
        )
        for part in there
    ]


def _gang(run: PlannedRun, device: Device) -> GangFacts:
    there = run.on(device)
    return GangFacts(device.name, there.dtype, there.smallest_gang())
