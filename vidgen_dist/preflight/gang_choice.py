"""Which gangs a run gets: as it asks for them, or chosen; refused where they have no room."""

from __future__ import annotations

from dataclasses import dataclass

from vidgen_dist.engine import get_engine
from vidgen_dist.errors import Refused
from vidgen_dist.parallel.degrees import Degrees
from vidgen_dist.spec import AUTO, RunSpec, TopologyOptions, nearest_degrees


@dataclass(frozen=True)
class Gangs:
    """What a run's NPUs are divided into.

    Args:
        replicas: Gangs at the same time.
        degrees: How each divides the work of one video.
    """

    replicas: int
    degrees: Degrees

    def __str__(self) -> str:
        degrees = self.degrees
        of = f"{degrees.size} (ulysses {degrees.ulysses}, ring {degrees.ring}, cfg {degrees.cfg})"
        return f"replicas: {self.replicas}, each a gang of {of}"


@dataclass(frozen=True)
class Capacity:
    """What a cluster has in all.

    Args:
        cpus: CPUs.
        npus: NPUs.
    """

    cpus: int
    npus: int


def settle_gangs(spec: RunSpec, capacity: Capacity, *, device: str, engine: str, rows: int) -> Gangs:
    """The gangs of a run, with room for each on its cluster.

    Args:
        spec: The run, its model's revision a commit.
        capacity: What the cluster has.
        device: `cpu` or `ascend`.
        engine: Module name of what renders.
        rows: Videos that are to be rendered; more gangs than that there are not.

    Raises:
        Refused: More ranks than NPUs, or too little memory for a rank: with the numbers and the nearest
            choice that works.
    """
    topology = spec.topology
    units = usable_npus(topology, capacity) if device == "ascend" else capacity.cpus
    if topology.replicas == AUTO:
        if not units:
            raise Refused(
                f"topology.replicas: {AUTO} is not allowed; {_place(topology)} has no NPU to divide"
                f"{_grows(topology)}"
            )
        replicas, degrees = get_engine(engine).choose_gangs(spec, device, units, rows)
        return Gangs(min(replicas, rows), degrees)
    if device == "ascend":
        _check_npus(topology, topology.replicas, units, capacity)
    if topology.memory is not None:
        get_engine(engine).check_memory(spec, device, units)
    degrees = Degrees(topology.ulysses, topology.ring, topology.cfg)
    return Gangs(min(topology.replicas, rows), degrees)


def usable_npus(topology: TopologyOptions, capacity: Capacity) -> int:
    """NPUs that a run may use: as many as it says where a cluster can grow, else no more than there are."""
    if topology.npus is None:
        return capacity.npus
    # A cluster may still grow; this machine will not.
    return topology.npus if topology.address is not None else min(topology.npus, capacity.npus)


def _check_npus(topology: TopologyOptions, replicas: int, npus: int, capacity: Capacity) -> None:
    """Refuse more ranks than the NPUs that a run may use."""
    ranks = replicas * topology.ranks
    if ranks <= npus:
        return
    if npus >= topology.ranks:
        nearest = f"replicas: {npus // topology.ranks} have room"
    elif npus:
        ulysses, ring, cfg = nearest_degrees(npus, topology.ulysses, topology.ring, topology.cfg)
        nearest = f"replicas: 1 with ulysses: {ulysses}, ring: {ring}, cfg: {cfg} has room"
    else:
        nearest = "topology.device: cpu needs none"
    limited = "" if topology.npus is None else f", topology.npus is {topology.npus}"
    raise Refused(
        f"topology.replicas: {replicas} with {topology.ranks} ranks each need {ranks} NPUs; "
        f"{_place(topology)} has {capacity.npus}{limited}: "
        f"{nearest}{_grows(topology)}"
    )


def _place(topology: TopologyOptions) -> str:
    return "this machine" if topology.address is None else f"the cluster at {topology.address}"


def _grows(topology: TopologyOptions) -> str:
    return "" if topology.address is None else "; if it grows, topology.npus says how far"
