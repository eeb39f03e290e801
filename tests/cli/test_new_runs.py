"""`vidgen init`: a run file for a checkpoint."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests import references
from tests.commands import Vidgen, run_apart
from vidgen_dist.families import FAMILIES
from vidgen_dist.families.checkpoints import open_model_checkpoint
from vidgen_dist.families.rules import load_rules
from vidgen_dist.families.taken import taken_fields
from vidgen_dist.output.run_file import load_spec
from vidgen_dist.preflight.sampling import check_sampling
from vidgen_dist.request import RenderRequest
from vidgen_dist.spec import RunSpec
from vidgen_dist.spec.option import declared_options

pytestmark = pytest.mark.usefixtures("no_ray")

CASES = [
    references.case(name, family.key) for family in FAMILIES for name in references.cases(family.key)[:2]
]


def init(vidgen: Vidgen, case: references.Case, path: Path, *more: str | Path) -> RunSpec:
    arguments: list[str | Path] = ["--task", case.task, *more]
    for key, value in case.options.items():
        if key in ("variant", "adapter") and value is not None:
            arguments += [f"--{key}", value]
    ran = vidgen("init", case.checkpoint, path, *arguments)
    assert ran.status == 0, ran.err
    return load_spec(str(path))


def uncommented(text: str) -> str:
    """A run file in which every default counts."""
    return re.sub(r"^( *)#(?! )(?=\S)", r"\1", text, flags=re.MULTILINE)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.family}-{case.name}")
def test_the_file_asks_for_the_checkpoints_defaults(
    case: references.Case, tmp_path: Path, vidgen: Vidgen
) -> None:
    path = tmp_path / "run.yaml"
    spec = init(vidgen, case, path)
    check_sampling(spec)
    checkpoint = open_model_checkpoint(spec.model)
    rules = load_rules(checkpoint, spec.model.task)
    assert spec.model.task == case.task
    assert rules.resolve_defaults(spec.sampling) == rules.resolve_defaults({})
    assert {"height", "width", "num_inference_steps"} <= spec.sampling.keys()
    assert spec.output.fps == rules.defaults["fps"]

    planned = vidgen("plan", path, "--device-name", "CPU", "--memory", "4GiB")
    assert planned.status == 0, planned.err

    everything = tmp_path / "everything.yaml"
    everything.write_text(uncommented(path.read_text()))
    whole = load_spec(str(everything))
    check_sampling(whole)
    assert rules.resolve_defaults(whole.sampling) == rules.resolve_defaults({})
    assert whole.model_dump(exclude={"sampling"}) == spec.model_dump(exclude={"sampling"})


@pytest.mark.parametrize("case", CASES[::2], ids=lambda case: case.family)
def test_every_option_and_field_is_in_the_file(case: references.Case, tmp_path: Path, vidgen: Vidgen) -> None:
    spec = init(vidgen, case, tmp_path / "run.yaml")
    data = yaml.safe_load(uncommented((tmp_path / "run.yaml").read_text()))
    family = next(family for family in FAMILIES if family.key == case.family)
    for declared in declared_options(RunSpec):
        useless = {"adapter": family.adapter is None, "adapter_revision": family.adapter is None}
        useless["ring"] = not family.ring
        value = data
        *parts, name = declared.key.split(".")
        for part in parts:
            value = value[part]
        if "adapter" not in name or family.adapter is None:
            assert (name in value) != useless.get(name, False), declared.key
    rules = load_rules(open_model_checkpoint(spec.model), case.task)
    settable = {f.name for f in taken_fields(rules) if not rules.declared[f.name].not_sampling}
    assert set(data["sampling"]) - {"fps"} == settable


def test_what_flags_give_is_a_setting(tmp_path: Path, vidgen: Vidgen) -> None:
    case = references.case("5b")
    path = tmp_path / "mine.yaml"
    more = ["--replicas", "3", "--set", "num_frames=17", "--set", "eta=0.5", "--format", "gif"]
    more += ["--manifest", "a.parquet", "--output", "s3://b/c", "--scheduler", "rescale_betas_zero_snr=true"]
    spec = init(vidgen, case, path, *more)
    assert (spec.manifest.uri, spec.output.uri, spec.output.format) == ("a.parquet", "s3://b/c", "gif")
    assert (spec.sampling["num_frames"], spec.sampling["eta"], spec.topology.replicas) == (17, 0.5, 3)
    assert spec.model.scheduler == {"rescale_betas_zero_snr": True}
    assert f"vidgen render {path}" in path.read_text()
    assert "17 frames of 64x48" in path.read_text()


def test_a_part_given_as_a_whole_is_not_lost(tmp_path: Path, vidgen: Vidgen) -> None:
    more = ["--option", "topology.watchdog={denoise: 30}", "--option", "faults={max_attempts: 3, grace: 5s}"]
    spec = init(vidgen, references.case("5b"), tmp_path / "run.yaml", *more)
    assert (spec.topology.watchdog.denoise, spec.faults.grace) == (30, "5s")


def test_a_brief_file_is_shorter(tmp_path: Path, vidgen: Vidgen) -> None:
    case = references.case("5b")
    long = init(vidgen, case, tmp_path / "long.yaml")
    brief = init(vidgen, case, tmp_path / "brief.yaml", "--brief")
    assert brief == long
    assert "watchdog" in (tmp_path / "long.yaml").read_text()
    assert "watchdog" not in (tmp_path / "brief.yaml").read_text()


def test_a_file_is_not_overwritten(tmp_path: Path, vidgen: Vidgen) -> None:
    case = references.case("5b")
    path = tmp_path / "run.yaml"
    path.write_text("mine")
    said = vidgen("init", case.checkpoint, path)
    assert (said.status, path.read_text()) == (2, "mine")
    assert said.err == f"{path}: exists; --force replaces it\n"
    assert vidgen("init", case.checkpoint, path, "--force").status == 0
    assert load_spec(str(path)).model.id == str(case.checkpoint)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--set", "num_frame=9"], "did you mean sampling.num_frames"),
        (["--set", "height=50"], "sampling.height: 50 is not allowed; a multiple of 16"),
        (["--set", "motion_bucket_id=3"], "CogVideoX text-to-video does not take it"),
        (["--task", "image-to-video"], "allowed: text-to-video, video-to-video"),
        (["--option", "model.id=x"], "model.id is given by MODEL and by --option"),
        (["--crf", "99"], "output.crf: 99 is not allowed"),
    ],
)
def test_what_is_refused(more: list[str], told: str, tmp_path: Path, vidgen: Vidgen) -> None:
    said = vidgen("init", references.case("5b").checkpoint, tmp_path / "run.yaml", *more)
    assert said.status == 2
    assert told in said.err
    assert not list(tmp_path.iterdir())


def test_a_file_of_another_name(tmp_path: Path, vidgen: Vidgen) -> None:
    said = vidgen("init", references.case("5b").checkpoint, tmp_path / "manifest.parquet")
    assert said.status == 2
    assert "allowed: *.yaml, *.yml" in said.err


def test_it_loads_neither_mindspore_nor_ray(tmp_path: Path) -> None:
    _, imported = run_apart("init", references.case("5b").checkpoint, tmp_path / "run.yaml")
    assert imported == "[]"


def test_a_first_file_renders_the_row_that_the_checkpoint_renders(tmp_path: Path, vidgen: Vidgen) -> None:
    case = references.case("5b")
    spec = init(vidgen, case, tmp_path / "run.yaml")
    rules = load_rules(open_model_checkpoint(spec.model), spec.model.task)
    row = rules.resolve(RenderRequest(**spec.sampling, prompt="a fox"))
    assert row == rules.resolve(RenderRequest(prompt="a fox"))
