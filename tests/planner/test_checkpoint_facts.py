"""What `vidgen inspect` finds out about a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import references
from tests.planner import published
from tests.weights.fake_hub import Hub, Repository
from tests.weights.test_hub import Client, client, hub
from vidgen_dist.families import FAMILIES
from vidgen_dist.planner import checkpoint_facts
from vidgen_dist.planner.checkpoint_facts import CheckpointFacts, inspect_checkpoint
from vidgen_dist.planner.facts_report import as_json, summary, tables
from vidgen_dist.spec import make_model
from vidgen_dist.weights.tensors import TensorFiles

__all__ = ["client", "hub"]

CASES = [references.case(references.cases(family.key)[0], family.key) for family in FAMILIES]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.family)
def test_a_folder_of_each_family(case: references.Case) -> None:
    facts = inspect_checkpoint(case.model)
    family = next(family for family in FAMILIES if family.key == case.family)
    assert (facts.family, facts.revision) == (family.name, None)
    assert facts.tasks[0].task == case.task
    assert {gang.device: gang.ranks for gang in facts.gangs if gang.device != "CPU"} == {"910B": 1, "A3": 1}
    for part in facts.components:
        if part.stored is None:
            continue
        assert part.stored.downloaded
        # What AnimateDiff's model is made of is in two components' files.
        if part.parameters is not None and case.family != "animatediff":
            assert sum(part.stored.parameters.values()) >= part.parameters
            assert part.bytes == 2 * part.parameters
    json.dumps(as_json(facts))
    assert list(summary(facts))
    assert len(list(tables(facts))) == 1 + len(facts.tasks)


def published_facts(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **options: str
) -> CheckpointFacts:
    opened = published.checkpoint(folder, name)
    monkeypatch.setattr(checkpoint_facts, "open_model_checkpoint", lambda *_, **__: opened)
    monkeypatch.setattr(checkpoint_facts, "stored_weights", lambda *_: {})
    return inspect_checkpoint(make_model({"id": name, **options}, name))


def test_a_published_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = published_facts("5b", tmp_path, monkeypatch)
    assert {part.name: part.parameters for part in facts.components} == {
        "tokenizer": None,
        "text_encoder": 4_762_310_656,
        "transformer": 5_570_283_072,
        "vae": 215_583_907,
        "scheduler": None,
    }
    # Twenty-one gigabytes of weights fit into 64, but not into 4.
    gangs = {gang.device: (gang.dtype, gang.ranks) for gang in facts.gangs}
    assert gangs["910B"] == ("bfloat16", 1)
    assert gangs["CPU"][0] == "float32"
    assert gangs["CPU"][1] is None or gangs["CPU"][1] > 8
    (fields,) = [task.fields for task in facts.tasks if task.task == "text-to-video"]
    defaults = {field.name: field.default for field in fields}
    assert (defaults["num_frames"], defaults["height"], defaults["fps"]) == (49, 480, 8.0)


def test_a_dtype_is_kept_on_its_kind_of_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = published_facts("animatediff", tmp_path, monkeypatch, dtype="float16")
    assert {gang.device: gang.dtype for gang in facts.gangs} == {
        "910B": "float16",
        "A3": "float16",
        "CPU": "float32",
    }


def test_a_hub_id_with_and_without_the_hub(client: Client, hub: Hub) -> None:
    case = references.case("0.9.1", "ltx")
    folder = case.checkpoint
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
    hub.repositories["org/ltx"] = Repository()
    commit = hub.repositories["org/ltx"].commit(files, "main")
    options = make_model({"id": "org/ltx"}, "org/ltx")
    facts = client.ask(lambda: inspect_checkpoint(options), offline=False)
    here = inspect_checkpoint(case.model)
    assert facts.revision == commit
    assert facts.tasks == here.tasks
    for part, local in zip(facts.components, here.components, strict=True):
        assert (part.stored is None) == (local.stored is None)
        if part.stored is not None and local.stored is not None:
            assert not part.stored.downloaded
            assert (part.stored.parameters, part.stored.bytes) == (
                local.stored.parameters,
                local.stored.bytes,
            )
    cached = client.ask(lambda: inspect_checkpoint(options), offline=True)
    assert cached.tasks == here.tasks
    assert all(part.stored is None for part in cached.components)
    for told in (facts, cached):
        assert dict(summary(told))["weights"] == "not on this machine: text_encoder, transformer, vae"
    assert [part.parameters for part in cached.components] == [part.parameters for part in here.components]


def test_bytes_are_those_of_the_files() -> None:
    case = references.case("0.9.1", "ltx")
    facts = inspect_checkpoint(case.model)
    (vae,) = [part for part in facts.components if part.name == "vae"]
    files = TensorFiles.open(case.checkpoint / "vae")
    assert vae.stored is not None
    assert vae.stored.bytes == sum(files.read(key).nbytes for key in files.keys)
