"""A family without a ring refuses one, with its name, wherever a run begins."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import references
from vidgen_dist import Refused, engine, families, load_pipeline
from vidgen_dist.families.rules import load_rules
from vidgen_dist.parallel.collectives import Group
from vidgen_dist.parallel.degrees import Degrees
from vidgen_dist.parallel.mesh import Mesh
from vidgen_dist.planner.planned_run import plan_splits
from vidgen_dist.preflight.plan import make_plan, open_run
from vidgen_dist.spec import spec_from_flags
from vidgen_dist.weights.checkpoint import open_checkpoint

CHECKPOINT = str(references.case("5b").checkpoint)


@pytest.fixture
def spec(tmp_path: Path) -> Callable[..., object]:
    """A run with some options of `topology`."""
    manifest = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist([{"id": "a", "prompt": "a fox"}]), manifest)

    def make(**topology: int | str) -> object:
        flags = {"model.id": CHECKPOINT, "manifest.uri": str(manifest), "output.uri": str(tmp_path / "out")}
        return spec_from_flags({**flags, **{f"topology.{key}": value for key, value in topology.items()}})

    return make


def begin_rendering(spec: object) -> object:
    return make_plan(*open_run(spec), device="cpu", engine=engine.ENGINE)


def load(spec: object) -> object:
    ranks = tuple(range(spec.topology.ring))
    return load_pipeline(CHECKPOINT, mesh=Mesh(gang=Group(ranks), sequence=Group(ranks), ring=Group(ranks)))


@pytest.fixture
def without_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    """CogVideoX as if it divided frames."""
    changed = [dataclasses.replace(family, ring=family.name != "CogVideoX") for family in families.FAMILIES]
    monkeypatch.setattr(families, "FAMILIES", tuple(changed))


@pytest.mark.usefixtures("without_ring")
@pytest.mark.parametrize("begin", [begin_rendering, plan_splits, load])
def test_it_is_refused_before_anything_starts(
    spec: Callable[..., object], tmp_path: Path, begin: Callable[[object], object]
) -> None:
    with pytest.raises(Refused, match=r"ring: 2 is not allowed; CogVideoX .*: leave it at 1.*ulysses"):
        begin(spec(ring=2))
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("without_ring")
def test_no_split_that_a_plan_compares_has_one(spec: Callable[..., object]) -> None:
    plan = plan_splits(spec(npus=4))
    degrees = {split.degrees for split in plan.comparison.splits}
    assert {each.ring for each in degrees} == {1}
    assert {each.size for each in degrees} == {1, 2, 4}
    # The message for a gang of one that does not fit suggests no ring either.
    peaks = {split.degrees.size: split.estimate.memory.peak for split in plan.comparison.splits}
    between = int((peaks[1] + peaks[2]) / 2 / plan.run.device.usable)
    tight = dataclasses.replace(plan.run, memory=between)
    with pytest.raises(Refused, match=r"Nearest that fits: a gang of 2 \(ulysses \d, ring 1, cfg \d\)"):
        tight.check_fits(Degrees(), 4)


def test_other_families_have_one(spec: Callable[..., object]) -> None:
    assert any(split.degrees.ring > 1 for split in plan_splits(spec(npus=4)).comparison.splits)
    assert load_rules(open_checkpoint(CHECKPOINT), ring=2).family == "CogVideoX"
