"""What a checkpoint can render, read from its configs alone.

A manifest of a million rows is checked against these rules before any model loads, so nothing here
imports MindSpore.
"""

from __future__ import annotations

from typing import Any

from vidgen_dist.errors import Refused
from vidgen_dist.families import fields_for, find_family
from vidgen_dist.families.common.tasks import Rules
from vidgen_dist.families.family import Configs, Family
from vidgen_dist.weights.checkpoint import Checkpoint


def load_rules(checkpoint: Checkpoint, task: str | None = None, *, ring: int = 1) -> Rules[Any]:
    """Read what a checkpoint can render from its configs.

    Args:
        checkpoint: An opened checkpoint; its weights are not needed.
        task: One of the tasks of `common.tasks`; by default what `model_index.json` says.
        ring: Number of ranks that keys and values are to be passed around.

    Raises:
        Refused: A family, task, config or gang that is not supported; the message says what is allowed.
    """
    family = find_family(checkpoint)
    return choose_rules(checkpoint, family, family.read_configs(checkpoint), task, ring=ring)


def choose_rules(
    checkpoint: Checkpoint,
    family: Family[Any],
    configs: Configs,
    task: str | None = None,
    *,
    ring: int = 1,
) -> Rules[Any]:
    """As `load_rules`, with the family's configs already read."""
    if ring > 1 and not family.ring:
        raise Refused(
            f"ring: {ring} is not allowed; {family.name} has no keys and values to pass around ranks: "
            "leave it at 1, and divide the frames with ulysses"
        )
    by_task = family.rules(configs)
    if task is None:
        class_name = checkpoint.model_index["_class_name"]
        declared = next(known.task for known in family.pipelines if known.name == class_name)
        task = declared if declared in by_task else next(iter(by_task))
    if task not in by_task:
        raise Refused(
            f"{checkpoint.model}: task {task!r} is not supported by this checkpoint; "
            f"allowed: {', '.join(by_task)}"
        )
    fields = fields_for(family)
    return Rules(family.name, task, tuple(by_task), by_task[task], fields, checkpoint.contract)


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
        raise Refused(f"dtype {dtype!r}: MindSpore's CPU kernels compute in float32 only; leave dtype out")
    return name


_DTYPES = {
    "float32": "float32",
    "fp32": "float32",
    "float16": "float16",
    "fp16": "float16",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
}
