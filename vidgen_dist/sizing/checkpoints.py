"""From a checkpoint and a run to the numbers of a plan, and to the split that `--replicas auto` takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vidgen_dist.errors import Refused
from vidgen_dist.parallel.mesh import Degrees
from vidgen_dist.pipelines.rules import Rules, compute_dtype
from vidgen_dist.request import RenderRequest, RequestError
from vidgen_dist.sizing import cogvideox, splits
from vidgen_dist.sizing.devices import Device, find_device
from vidgen_dist.sizing.model import ModelSize, Workload
from vidgen_dist.spec import RunSpec, parse_bytes
from vidgen_dist.weights.checkpoint import Checkpoint


@dataclass(frozen=True)
class Family:
    """How one model family is read.

    Args:
        model_size: Checkpoint and rules -> what it weighs.
        workload: Checkpoint, rules and a request with its defaults filled in -> what that asks of it.
    """

    model_size: Callable[[Checkpoint, Rules], ModelSize]
    workload: Callable[[Checkpoint, Rules, RenderRequest], Workload]


FAMILIES: Mapping[str, Family] = {
    "CogVideoX": Family(cogvideox.model_size, cogvideox.workload),
}


@dataclass(frozen=True)
class Job:
    """A run as a plan sees it: what renders what, on which devices, in which numbers.

    Args:
        size: The checkpoint.
        work: A row that says nothing of its own.
        device: What the NPUs are.
        dtype: Of weights and activations.
        memory: Bytes of one NPU.
    """

    size: ModelSize
    work: Workload
    device: Device
    dtype: str
    memory: int

    def choose(self, npus: int, rows: int | None = None) -> splits.Comparison:
        """As `splits.choose`."""
        return splits.choose(
            self.size, self.work, self.device, npus, rows=rows, dtype=self.dtype, memory=self.memory
        )

    def check_fits(self, degrees: Degrees, npus: int | None = None) -> splits.Estimate:
        """As `splits.check_fits`."""
        return splits.check_fits(
            self.size, self.work, self.device, degrees, npus=npus, dtype=self.dtype, memory=self.memory
        )


def read_job(checkpoint: Checkpoint, rules: Rules, spec: RunSpec, device: str) -> Job:
    """What a run asks of its devices, from configs alone. Loads MindSpore, but no weights.

    Args:
        checkpoint: An opened checkpoint.
        rules: What it takes from a request.
        spec: The run: its sampling defaults, dtype and memory.
        device: Name of a device, or its kind (`ascend`, `cpu`).

    Raises:
        Refused: A device or memory that there is not, a config or a sampling default that cannot be.
    """
    found = find_device(device)
    dtype = compute_dtype(spec.model.dtype, found.kind)
    family = FAMILIES[rules.family]
    text = spec.topology.memory
    return Job(
        size=family.model_size(checkpoint, rules),
        work=family.workload(checkpoint, rules, _plain_request(rules, spec.sampling)),
        device=found,
        dtype=dtype,
        memory=found.memory if text is None else parse_bytes(text),
    )


def choose_topology(
    checkpoint: Checkpoint,
    rules: Rules,
    spec: RunSpec,
    npus: int,
    device: str,
    rows: int | None = None,
) -> tuple[int, Degrees]:
    """How many gangs of which degrees `npus` NPUs are best divided into.

    Args:
        checkpoint, rules, spec, device: As for `read_job`.
        npus: How many there are; on CPU, cores.
        rows: Videos that are to be rendered; None for many.

    Raises:
        Refused: Nothing fits; says what would be needed.
    """
    chosen = read_job(checkpoint, rules, spec, device).choose(npus, rows).chosen
    return chosen.replicas, chosen.degrees


def _plain_request(rules: Rules, sampling: Mapping[str, Any]) -> RenderRequest:
    """The request of a row that says nothing of its own; what it is conditioned on is not opened."""
    given = {name: value for name, value in sampling.items() if value is not None}
    if rules.media is not None:
        given.setdefault(rules.media, "of each row")
    try:
        return rules.resolve(RenderRequest(**{"prompt": "", **given}))
    except RequestError as error:
        raise Refused(f"sampling.{error}") from None
