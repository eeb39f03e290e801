"""Outputs that a run goes on with, and those that are refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests import fake_engine
from tests.preflight.plans import MakeManifest, MakeSpec, enter, plan_of, record, rows_of
from vidgen_dist.engine import ENGINE
from vidgen_dist.errors import Refused
from vidgen_dist.output.run_file import load_spec
from vidgen_dist.preflight.plan import Plan, make_plan, open_run

REFERENCES = Path(__file__).parents[1] / "references"


def test_a_run_keeps_its_commit_when_the_branch_moves(
    make_spec: MakeSpec, make_manifest: MakeManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(make_manifest("one"), model__id="hub/fake")
    plan = plan_of(spec)
    enter(plan, rows_of(plan))
    assert load_spec(plan.output.uri("run.yaml")).model.revision == "1111"
    monkeypatch.setattr(fake_engine, "MAIN", "2222")
    assert plan_of(spec).done == 1
    assert plan_of(spec.override({"model.revision": "2222"})).done == 0


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"model__id": "other"}, "model.id"),
        ({"output__format": "gif"}, "output.format"),
        ({"model__task": "image-to-video"}, "model.task"),
    ],
)
def test_an_output_of_another_run(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path, change: dict[str, str], key: str
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    plan = plan_of(make_spec(make_manifest("one")))
    enter(plan, rows_of(plan))
    row = {"id": "a", "prompt": "one"} | ({"image": "x.png"} if key == "model.task" else {})
    with pytest.raises(Refused, match=f"output of another run: {key}"):
        plan_of(make_spec(make_manifest(row), **change))


def test_a_folder_is_its_content_wherever_it_lies(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plan(folder: str) -> Plan:
        return make_plan(*open_run(make_spec(manifest, model__id=folder)), device="cpu", engine=ENGINE)

    manifest = make_manifest("one")
    model = tmp_path / "models" / "tiny"
    shutil.copytree(REFERENCES / "cogvideox" / "5b" / "checkpoint", model)
    first = plan(str(model))
    enter(first, rows_of(first))
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "away")
    there = plan("../models/tiny")
    assert (there.spec.model.id, there.done) == (str(model), 1)
    moved = model.rename(tmp_path / "moved")
    elsewhere = plan(str(moved))
    assert (elsewhere.spec.model.id, elsewhere.done) == (str(moved), 1)
    assert plan_of_run_file(elsewhere).done == 1
    other = shutil.copytree(moved, tmp_path / "other")
    config = other / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text() + " ")
    with pytest.raises(Refused, match=r"output of another run: model\.id is '.*/moved'.* here '.*/other'"):
        plan(str(other))
    # In its own place it is the same run with other pixels.
    shutil.rmtree(moved)
    other.rename(moved)
    assert plan(str(moved)).done == 0


def plan_of_run_file(plan: Plan) -> Plan:
    """The plan of whoever goes on from the output's own run.yaml."""
    record(plan)
    return make_plan(*open_run(load_spec(plan.output.uri("run.yaml"))), device="cpu", engine=ENGINE)


def test_an_output_where_nothing_was_rendered_is_free(
    make_spec: MakeSpec, make_manifest: MakeManifest
) -> None:
    record(plan_of(make_spec(make_manifest("one"), model__id="mistyped")))
    assert plan_of(make_spec(make_manifest("one"), output__format="gif")).done == 0


def test_an_output_of_another_manifest(make_spec: MakeSpec, make_manifest: MakeManifest) -> None:
    plan = plan_of(make_spec(make_manifest("one", "two")))
    enter(plan, rows_of(plan))
    stranger = make_manifest({"id": "x", "prompt": "three"}, name="other.parquet")
    with pytest.raises(Refused, match=r"its manifest is .*manifest\.parquet"):
        plan_of(make_spec(stranger))
    relative = make_manifest("one", {"id": "x", "prompt": "three"}, name="more.parquet")
    assert plan_of(make_spec(relative)).done == 1


def test_an_output_in_the_manifest(make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path) -> None:
    """The next run would read the ledger as manifest."""
    make_manifest("one")
    for uri in (str(tmp_path), f"{tmp_path}/**/*.parquet"):
        with pytest.raises(Refused, match=r"/out: lies in the manifest .*; give a folder outside of it"):
            plan_of(make_spec(uri))
    assert plan_of(make_spec(f"{tmp_path}/*.parquet")).total == 1
    assert plan_of(make_spec(str(tmp_path), output__uri=str(tmp_path / "_out"))).total == 1


@pytest.mark.parametrize("folder", ["videos", "ledger"])
def test_a_folder_that_is_no_output(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path, folder: str
) -> None:
    (tmp_path / "out" / folder).mkdir(parents=True)
    (tmp_path / "out" / folder / "holiday.mp4").write_bytes(b"mine")
    with pytest.raises(Refused, match=f"has {folder}/ but no run.yaml"):
        plan_of(make_spec(make_manifest("one")))


def test_a_run_file_that_no_run_has_written_is_not_replaced(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path
) -> None:
    spec = make_spec(make_manifest("one"))
    own = tmp_path / "out" / "run.yaml"
    own.parent.mkdir()
    own.write_text(spec.to_yaml())
    with pytest.raises(Refused, match=r"/out: is not the output of a run: no run has written the run\.yaml"):
        plan_of(spec)
    # A run that was killed early has left no more than its run.yaml.
    own.write_text(plan_of(make_spec(make_manifest("one"), output__uri=f"{tmp_path}/b")).recorded.to_yaml())
    assert plan_of(spec).total == 1
