"""Which gangs a run gets with the models' own engine: from a real (tiny) checkpoint's configs."""

from __future__ import annotations

from pathlib import Path

import pytest

from vidgen_dist import engine
from vidgen_dist.errors import Refused
from vidgen_dist.parallel.degrees import Degrees
from vidgen_dist.preflight.gang_choice import Capacity, Gangs, settle_gangs
from vidgen_dist.spec import RunSpec, spec_from_flags

CHECKPOINT = Path(__file__).parents[1] / "references" / "cogvideox" / "v2v" / "checkpoint"


def settle(*, rows: int = 100, **flags: object) -> Gangs:
    return settle_gangs(
        make(flags), Capacity(cpus=128, npus=16), device="ascend", engine=engine.ENGINE, rows=rows
    )


def make(flags: dict[str, object]) -> RunSpec:
    base = {"model.id": str(CHECKPOINT), "manifest.uri": "a", "output.uri": "b"}
    return spec_from_flags(base | {f"topology.{name}": value for name, value in flags.items()})


def test_what_is_asked_for_is_taken() -> None:
    gangs = settle(replicas=4, ulysses=2, cfg=2)
    assert (gangs.replicas, gangs.degrees.size) == (4, 4)
    assert str(gangs) == "replicas: 4, each a gang of 4 (ulysses 2, ring 1, cfg 2)"


def test_no_more_gangs_than_rows() -> None:
    assert settle(rows=3, replicas=4, ulysses=2).replicas == 3


def test_auto_divides_what_there_is() -> None:
    """For many videos of a model that fits, nothing beats a gang of one an NPU."""
    assert settle(rows=10_000, replicas="auto") == Gangs(16, Degrees())
    assert settle(rows=10_000, replicas="auto", npus=3).replicas == 3


def test_auto_without_npus() -> None:
    with pytest.raises(Refused, match="this machine has no NPU to divide"):
        settle_gangs(
            make({"replicas": "auto"}),
            Capacity(cpus=0, npus=0),
            device="ascend",
            engine=engine.ENGINE,
            rows=1,
        )


def test_a_model_that_does_not_fit() -> None:
    with pytest.raises(Refused, match="does not fit into the memory given"):
        settle(memory="100KB")
    assert settle(memory="64GB") == settle()


def test_a_cluster_that_grows() -> None:
    with pytest.raises(
        Refused, match=r"need 32 NPUs; the cluster at auto has 16: .* topology\.npus says how far"
    ):
        settle(replicas=32, address="auto")
    assert settle(replicas=32, address="auto", npus=32).replicas == 32
    with pytest.raises(Refused, match=r"this machine has 16, topology\.npus is 32"):
        settle(replicas=32, npus=32)
