"""`--option KEY=VALUE`: any key of a run file, alike in the commands that take it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests import references
from tests.commands import Vidgen
from vidgen_dist.spec import RunSpec
from vidgen_dist.spec.option import declared_options

ELSEWHERE = ("m.parquet", "out", "--model", "org/model")

VALUES: dict[str, Any] = {
    "model.task": "text-to-video",
    "model.revision": "12345e67",
    "model.scheduler._class_name": "DDIMScheduler",
    "model.vae_tiling": True,
    "model.variant": "no",
    "manifest.passthrough": ["source", "licence"],
    "output.fps": 12.5,
    "output.reject": ["black"],
    "topology.replicas": "auto",
    "topology.watchdog.denoise": 30,
    "faults.max_failures": "5%",
    "sampling.num_frames": 9,
    "sampling.negative_prompt": "no",
    "seed": 4,
}


def as_options(values: dict[str, Any]) -> list[str]:
    """The flags that give them."""
    texts = (value if isinstance(value, str) else json.dumps(value) for value in values.values())
    pairs = zip(values, texts, strict=True)
    return [part for key, text in pairs for part in ("--option", f"{key}={text}")]


def test_any_key_may_be_given(vidgen: Vidgen, specs: list[RunSpec], tmp_path: Path) -> None:
    assert vidgen("render", *ELSEWHERE, *as_options(VALUES)).status == 0
    (spec,) = specs
    held = spec.model_dump(mode="json")
    for key, value in VALUES.items():
        inner = held
        *path, name = key.split(".")
        for step in path:
            inner = inner[step]
        assert inner[name] == value
    run_file = tmp_path / "run.yaml"
    run_file.write_text("model: {id: org/model}\nmanifest: {uri: m.parquet}\noutput: {uri: out}\n")
    assert vidgen("render", run_file, *as_options(VALUES)).status == 0
    assert specs[1] == spec


def test_keys_that_arguments_give_too(vidgen: Vidgen, specs: list[RunSpec], tmp_path: Path) -> None:
    options = ["--option", "output.uri=out", "--option", "model.id=org/model"]
    assert vidgen("render", "m.parquet", *options).status == 0
    run_file = tmp_path / "run.yaml"
    run_file.write_text(specs[0].to_yaml())
    assert vidgen("render", run_file, "--option", "manifest.uri=other.parquet").status == 0
    assert [spec.manifest.uri for spec in specs] == ["m.parquet", "other.parquet"]
    ran = vidgen("render", "m.parquet", *options, "--option", "manifest.uri=other.parquet")
    assert ran.status == 2
    assert "manifest.uri is given by MANIFEST and by --option; leave one of them out" in ran.err


def test_null_is_the_default(vidgen: Vidgen, specs: list[RunSpec], tmp_path: Path) -> None:
    run_file = tmp_path / "run.yaml"
    text = "model: {id: m, task: text-to-video}\nmanifest: {uri: a}\noutput: {uri: b, fps: 12}\n"
    run_file.write_text(f"{text}sampling: {{num_frames: 9}}\n")
    options = ("output.fps=null", "model.task=null", "sampling={}", "model.variant='null'")
    vidgen("render", run_file, *(part for option in options for part in ("--option", option)))
    assert (specs[0].output.fps, specs[0].sampling) == (None, {})
    assert (specs[0].model.task, specs[0].model.variant) == (None, "null")


def test_plan_takes_them(vidgen: Vidgen) -> None:
    checkpoint = references.case("5b").checkpoint
    options = as_options({"topology.npus": 4, "sampling.num_inference_steps": 7})
    ran = vidgen("plan", "--model", checkpoint, *options, "--json")
    assert ran.status == 0, ran.err
    found = json.loads(ran.out)
    assert (found["npus"], found["video"]["steps"]) == (4, 7)
    ran = vidgen("plan", "--model", checkpoint, "--option", "topology.npu=4")
    assert ran.status == 2
    assert "command line: topology.npu: unknown key; did you mean topology.npus? allowed: device" in ran.err


def test_the_check_of_a_manifest_takes_them(vidgen: Vidgen, manifest: Path) -> None:
    checkpoint = references.case("5b").checkpoint
    command = ("manifest", "check", manifest, "--model", checkpoint, "--option")
    assert vidgen(*command, "sampling.height=32").status == 0
    ran = vidgen(*command, "sampling.height=33")
    assert (ran.status, "sampling.height: 33" in ran.err) == (2, True)
    ran = vidgen(*command, "manifest.uri=x")
    assert (ran.status, "manifest.uri is given by URI and by --option" in ran.err) == (2, True)


def test_every_option_with_a_flag_has_it(vidgen: Vidgen) -> None:
    """And its sentence, under the heading of its group, where its default is shown as well."""
    for command in ("render", "plan", "manifest check"):
        printed = vidgen(*command.split(), "--help").out.replace("--[no-]", "--")
        for declared in declared_options(RunSpec):
            option = declared.option
            shown = option.flag is not None and f" {option.flag} " in printed
            assert shown == (option.flag is not None and command in option.commands), (command, declared.key)
            if shown:
                assert option.help in printed
                assert f"\n{declared.group}:\n" in printed
                assert declared.default is None or f"[default: {declared.default}]" in printed
