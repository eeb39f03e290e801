"""Turns a run and its checkpoint into the planner's numbers, and chooses the split for `--replicas auto`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from vidgen_dist.errors import Refused
from vidgen_dist.families import find_family
from vidgen_dist.families.checkpoints import open_model_checkpoint, warn_unknown_keys
from vidgen_dist.families.common.costs import ModelSize, Workload
from vidgen_dist.families.common.tasks import Rules
from vidgen_dist.families.rules import compute_dtype, load_rules
from vidgen_dist.parallel.degrees import Degrees
from vidgen_dist.planner import splits
from vidgen_dist.planner.counting import count_models
from vidgen_dist.planner.devices import Device, find_device
from vidgen_dist.spec import AUTO, RunSpec, parse_bytes
from vidgen_dist.weights.checkpoint import Checkpoint


@dataclass(frozen=True)
class PlannedRun:
    """A run in the planner's terms: model, work and device.

    Args:
        model: Hub id or folder.
        family: Name of the model family.
        size: The checkpoint's size.
        work: The work of a row without values of its own.
        device: The NPUs.
        dtype: Dtype of weights and activations.
        memory: Bytes of one NPU.
        ring: Whether the family supports a ring.
    """

    model: str
    family: str
    size: ModelSize
    work: Workload
    device: Device
    dtype: str
    memory: int
    ring: bool = True

    def choose(self, npus: int, rows: int | None = None) -> splits.Comparison:
        """As `splits.choose`."""
        return splits.choose(
            self.size,
            self.work,
            self.device,
            npus,
            rows=rows,
            dtype=self.dtype,
            memory=self.memory,
            ring=self.ring,
            model=self.model,
        )

    def on(self, device: Device) -> PlannedRun:
        """The same run on NPUs of another kind, with all of their memory, in its usual dtype.

        The run's own dtype is kept on a device of the same kind.
        """
        dtype = self.dtype if device.kind == self.device.kind else compute_dtype(None, device.kind)
        return replace(self, device=device, dtype=dtype, memory=device.memory)

    def smallest_gang(self) -> int | None:
        """Ranks of the smallest gang that fits; None if none fits, up to `splits.LARGEST_GANG`."""
        found = splits.estimates(
            self.size,
            self.work,
            self.device,
            splits.LARGEST_GANG,
            dtype=self.dtype,
            memory=self.memory,
            ring=self.ring,
        )
        return min((one.degrees.size for one in found if one.fits), default=None)

    def check_fits(self, degrees: Degrees, npus: int | None = None) -> splits.Estimate:
        """As `splits.check_fits`."""
        return splits.check_fits(
            self.size,
            self.work,
            self.device,
            degrees,
            npus=npus,
            dtype=self.dtype,
            memory=self.memory,
            ring=self.ring,
            model=self.model,
        )


def read_planned_run(checkpoint: Checkpoint, rules: Rules[Any], spec: RunSpec, device: str) -> PlannedRun:
    """Read a run's size and work from configs alone. Imports MindSpore, but reads no weights.

    Args:
        checkpoint: An opened checkpoint.
        rules: What it takes from a request.
        spec: The run: its sampling defaults, dtype, memory, and whether the VAE uses tiles.
        device: Name of a device, or its kind (`ascend`, `cpu`).

    Raises:
        Refused: An unknown device, a memory size, config or sampling default that is not allowed.
    """
    found = find_device(device)
    dtype = compute_dtype(spec.model.dtype, found.kind)
    family = find_family(checkpoint)
    costs, configs = family.costs.load(), family.read_configs(checkpoint)
    models = count_models(checkpoint, spec.model)
    text = spec.topology.memory
    work = costs.workload(configs, rules.resolve_defaults(spec.sampling))
    return PlannedRun(
        model=checkpoint.model,
        family=family.name,
        size=costs.size(configs, models.counted, rules.task),
        work=replace(work, vae_tiles=models.vae_tiles),
        device=found,
        dtype=dtype,
        memory=found.memory if text is None else parse_bytes(text),
        ring=family.ring,
    )


def choose_topology(
    checkpoint: Checkpoint,
    rules: Rules[Any],
    spec: RunSpec,
    npus: int,
    device: str,
    rows: int | None = None,
) -> tuple[int, Degrees]:
    """Choose the number of gangs and their degrees for `npus` NPUs: `--replicas auto`.

    Args:
        checkpoint, rules, spec, device: As for `read_planned_run`.
        npus: Number of NPUs; on CPU, of cores.
        rows: Videos to render; None for many.

    Raises:
        Refused: Nothing fits; the message says what is needed.
    """
    chosen = read_planned_run(checkpoint, rules, spec, device).choose(npus, rows).chosen
    return min(chosen.replicas, rows or chosen.replicas), chosen.degrees


def check_memory(checkpoint: Checkpoint, rules: Rules[Any], spec: RunSpec, npus: int, device: str) -> None:
    """Refuse a run whose gangs have too little of the memory that `topology.memory` gives.

    Args:
        checkpoint, rules, spec, device: As for `read_planned_run`.
        npus: Number of NPUs, for the choice that the message names.

    Raises:
        Refused: They have; the message has the numbers and the nearest choice that works.
    """
    if spec.topology.memory is not None:
        read_planned_run(checkpoint, rules, spec, device).check_fits(degrees_of(spec), npus)


def degrees_of(spec: RunSpec) -> Degrees:
    """The gang that a run asks for."""
    return Degrees(ulysses=spec.topology.ulysses, ring=spec.topology.ring, cfg=spec.topology.cfg)


@dataclass(frozen=True)
class SplitPlan:
    """The result of `vidgen plan`.

    Args:
        run: The run.
        task: The checkpoint's task in it.
        npus: Number of NPUs that are divided.
        rows: Videos to render; None for many.
        comparison: The splits.
        asked: The split that the run asks for; None if it leaves the choice open.
    """

    run: PlannedRun
    task: str
    npus: int
    rows: int | None
    comparison: splits.Comparison
    asked: splits.Split | None


def plan_splits(spec: RunSpec, device_name: str | None = None, rows: int | None = None) -> SplitPlan:
    """Compare the splits for a run, from its checkpoint's configs alone.

    Args:
        spec: The run. Without `topology.npus`, the NPUs of its replicas, or of one host, are divided.
        device_name: Name of a device; by default the usual one for `topology.device`, an NPU for `auto`.
        rows: Videos to render; None for many.

    Raises:
        Refused: A checkpoint, device, memory size or sampling default that is not allowed; more ranks than
            NPUs; a gang that does not fit, or no gang that fits.
    """
    checkpoint = open_model_checkpoint(spec.model, weights=False)
    warn_unknown_keys(checkpoint)
    rules = load_rules(checkpoint, spec.model.task, ring=spec.topology.ring)
    kind = "cpu" if spec.topology.device == "cpu" else "ascend"
    run = read_planned_run(checkpoint, rules, spec, device_name or kind)
    degrees = degrees_of(spec)
    replicas = 1 if spec.topology.replicas == AUTO else spec.topology.replicas
    needed = replicas * degrees.size
    npus = spec.topology.npus or max(needed, 1 if needed > 1 else run.device.npus_per_host)
    if needed > npus:
        raise Refused(
            f"topology: {replicas} x {splits.describe(degrees)} need {needed} NPUs, and there are {npus}; "
            f"allowed: at most {npus // degrees.size} replicas of it, or gangs of up to {npus} ranks"
        )
    asked = None
    if needed > 1 or spec.topology.gang is not None:
        asked = splits.Split(run.check_fits(degrees, npus), replicas, rows)
    return SplitPlan(run, rules.task, npus, rows, run.choose(npus, rows), asked)
