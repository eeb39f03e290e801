"""What holds for every family in the list: its author finds here what is still missing."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import grimp
import pytest
import yaml

from tests import references
from vidgen_dist import nn
from vidgen_dist.families import FAMILIES, OUR_FIELDS
from vidgen_dist.families.checkpoints import open_model_checkpoint
from vidgen_dist.families.common.costs import Costs
from vidgen_dist.families.common.pipeline import DiffusionPipeline
from vidgen_dist.families.common.tasks import Rules
from vidgen_dist.families.family import ConfigClass, Family, ModelClass
from vidgen_dist.families.rules import load_rules
from vidgen_dist.families.table import families_table
from vidgen_dist.request import FIELDS

ROOT = Path(__file__).parents[2]
JOBS = sorted((ROOT / "jobs").glob("*.yaml"))

of_each_family = pytest.mark.parametrize("family", FAMILIES, ids=[family.key for family in FAMILIES])


def rules_of(family: Family[Any]) -> list[Rules[Any]]:
    """The rules of each task of each of the family's reference checkpoints."""
    found = []
    for name in references.cases(family.key):
        checkpoint = open_model_checkpoint(references.case(name, family.key).model)
        found += [load_rules(checkpoint, task) for task in load_rules(checkpoint).tasks]
    return found


@of_each_family
def test_what_is_declared_is_there(family: Family[Any]) -> None:
    folder = importlib.import_module(f"vidgen_dist.families.{family.key}")
    assert folder.FAMILY is family
    for pipeline in family.pipelines:
        assert issubclass(pipeline.pipeline.load(), DiffusionPipeline)
    for component in family.components:
        for known in component.takes:
            if isinstance(known, ModelClass):
                cell = known.cell.load()
                assert issubclass(cell, nn.Module)
                # The constructor takes what the declaration's `read` returns.
                read = known.config
                if known.made_of is not None:
                    made = inspect.getattr_static(family.configs, known.made_of).func
                    read = typing.get_type_hints(made)["return"]
                assert issubclass(read, typing.get_type_hints(cell.__init__)["config"])
                names = {other.name for other in family.components}
                assert names >= set(known.weights_of)
                assert known.name == known.config.NAME
    assert isinstance(family.costs.load(), Costs)
    configs = {field.name for field in dataclasses.fields(family.configs)} - {"index"}
    assert configs <= {component.name for component in family.components}


@of_each_family
def test_pipelines_name_their_components(family: Family[Any]) -> None:
    """So that mypy knows the attributes that the loader sets."""
    for pipeline in family.pipelines:
        hints = typing.get_type_hints(pipeline.pipeline.load())
        # Of the others only the configs are known.
        own = {c.name for c in family.components if not isinstance(c.takes[0], ConfigClass)}
        assert own <= hints.keys()
        assert hints["configs"] is family.configs


@of_each_family
def test_references_a_benchmark_a_run_file_and_a_line_of_the_docs(family: Family[Any]) -> None:
    assert references.cases(family.key)
    assert (references.HERE / f"make_{family.key}.py").is_file()
    assert importlib.util.find_spec(f"tests.benchmarks.{family.key}") is not None
    models = {yaml.safe_load(path.read_text(encoding="utf-8"))["model"]["id"] for path in JOBS}
    assert models & set(family.published)
    assert any(line.startswith(f"| {family.name} |") for line in families_table().splitlines())


@of_each_family
def test_a_request_has_the_fields_that_are_declared(family: Family[Any]) -> None:
    own = {**FIELDS, **family.fields}
    for rules in rules_of(family):
        assert rules.fields <= own.keys()
        assert rules.defaults.keys() <= rules.fields
        hints = typing.get_type_hints(rules.of_task.request)
        for name, value in rules.defaults.items():
            assert own[name].parse(name, value) == value
            # A field with a default is never empty.
            assert type(None) not in typing.get_args(hints[name])
        for name in rules.required:
            assert type(None) not in typing.get_args(hints[name])


@of_each_family
def test_fields_of_a_family_are_declared_once(family: Family[Any]) -> None:
    assert not family.fields.keys() & FIELDS.keys()
    for other in FAMILIES:
        for name in family.fields.keys() & other.fields.keys():
            assert family.fields[name] is other.fields[name]
    assert family.fields.keys() <= OUR_FIELDS.keys()
    taken: set[str] = set().union(*(rules.fields for rules in rules_of(family)))
    assert family.fields.keys() <= taken


def test_names_are_told_apart() -> None:
    for names in (
        [family.name for family in FAMILIES],
        [family.key for family in FAMILIES],
        [pipeline.name for family in FAMILIES for pipeline in family.pipelines],
    ):
        assert len(set(names)) == len(names)


WITHOUT_THEM = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    if heavy := {"mindspore", "ray"} & set(sys.modules):
        sys.exit(f"{name} imports {heavy}")
"""


def test_what_is_known_before_a_pipeline_is_loaded_needs_no_mindspore() -> None:
    parts = ("", ".config", ".rules", ".costs")
    modules = [f"vidgen_dist.families.{family.key}{part}" for family in FAMILIES for part in parts]
    subprocess.run([sys.executable, "-c", WITHOUT_THEM, *modules], check=True)


def test_families_know_nothing_of_each_other() -> None:
    graph = grimp.build_graph("vidgen_dist")
    for family in FAMILIES:
        own = f"vidgen_dist.families.{family.key}"
        for module in (own, *graph.find_descendants(own)):
            for imported in graph.find_modules_directly_imported_by(module):
                for other in FAMILIES:
                    if other is not family:
                        assert not f"{imported}.".startswith(f"vidgen_dist.families.{other.key}."), module
