"""`vidgen render`: what it refuses before it starts, and what it makes of its flags."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save

from tests.cli.conftest import write_manifest
from tests.commands import Vidgen
from tests.output.test_run_file import make_output
from tests.policies import AT_ONCE
from tests.references import edit_json
from vidgen_dist.cli import main
from vidgen_dist.errors import Refused
from vidgen_dist.runtime.driver import render as driver
from vidgen_dist.runtime.driver.policies import RunPolicies
from vidgen_dist.spec import FaultsOptions, LoraOptions, RunSpec

BAD_ROWS: list[tuple[dict[str, Any], list[str]]] = [
    ({"num_frames": -3}, ["row 1", "num_frames", "-3"]),
    ({"num_frames": 8.5}, ["row 1", "num_frames", "8.5", "whole number"]),
    ({"height": 17}, ["row 1", "height", "17", "multiple of"]),
    ({"seed": -1}, ["row 1", "seed", "-1"]),
    ({"id": "a"}, ["row 1", "the same as that of row 0"]),
    ({"strength": 0.5}, ["row 1", "strength", "does not take it"]),
]


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize(("bad", "parts"), BAD_ROWS)
def test_bad_rows(
    vidgen: Vidgen, tmp_path: Path, checkpoint: Path, bad: dict[str, Any], parts: list[str]
) -> None:
    path = write_manifest(
        tmp_path / "m.parquet",
        {**dict.fromkeys(bad), "id": "a", "prompt": "a fox"},
        {"id": "b", "prompt": "a boat", **bad},
    )
    for ran in (
        vidgen("render", path, tmp_path / "out", "--model", checkpoint),
        vidgen("manifest", "check", path, "--model", checkpoint),
    ):
        assert ran.status == 2
        for part in ("m.parquet", *parts):
            assert part in ran.err
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_ray")
def test_bad_rows_by_choice(vidgen: Vidgen, tmp_path: Path, checkpoint: Path) -> None:
    """By the rules of a real checkpoint; where all rows are bad, nothing is started."""
    bad = [{**row, "id": str(n)} for n, (row, _) in enumerate(BAD_ROWS) if "id" not in row]
    names = {name for row in bad for name in row}
    path = write_manifest(
        tmp_path / "m.parquet", *({"prompt": "x", **dict.fromkeys(names), **row} for row in bad)
    )
    ran = vidgen("render", path, tmp_path / "out", "--model", checkpoint, "--bad-rows", "fail")
    assert ran.status == 1, ran.err
    assert "5 of 5 rows cannot be rendered:" in ran.err
    assert "nothing to render: 0 rows are done, 5 cannot be rendered" in ran.err
    told = json.loads(vidgen("failures", tmp_path / "out", "--json").out)
    assert [row["id"] for row in told] == list("01235")
    for row, (_, parts) in zip(told, (each for each in BAD_ROWS if "id" not in each[0]), strict=True):
        assert row["error_class"] == "BadRow"
        assert all(part in row["error_message"] for part in parts[1:])
    assert "5 BadRow" in vidgen("status", tmp_path / "out").out


@pytest.mark.usefixtures("no_ray")
def test_a_manifest_that_is_not_parquet(vidgen: Vidgen, tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a fox\n")
    ran = vidgen("render", tmp_path / "prompts.txt", tmp_path / "out", "--model", checkpoint)
    assert ran.status == 2
    assert "prompts.txt: is not Parquet; `vidgen manifest build` makes one from it" in ran.err


@pytest.mark.usefixtures("no_ray")
def test_a_manifest_without_prompt(vidgen: Vidgen, tmp_path: Path, checkpoint: Path) -> None:
    path = write_manifest(tmp_path / "m.parquet", {"promt": "a fox"})
    ran = vidgen("render", path, tmp_path / "out", "--model", checkpoint)
    assert ran.status == 2
    assert "no column 'prompt'" in ran.err
    assert "'promt'" in ran.err


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize("component", ["vae", "transformer", "text_encoder", "tokenizer", "scheduler"])
def test_a_checkpoint_without_a_component(
    vidgen: Vidgen, tmp_path: Path, checkpoint: Path, manifest: Path, component: str
) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, folder)
    shutil.rmtree(folder / component)
    ran = vidgen("render", manifest, tmp_path / "out", "--model", folder)
    assert ran.status == 2
    assert str(folder) in ran.err
    assert component in ran.err


def _int8(folder: Path) -> None:
    path = next((folder / "transformer").glob("*.safetensors"))
    path.write_bytes(save({"q.weight": np.zeros((4, 4), np.int8), "q.SCB": np.ones(4, np.float32)}))


def _awq(folder: Path) -> None:
    edit_json(folder / "vae" / "config.json", quantization_config={"quant_method": "awq"})


@pytest.mark.usefixtures("no_gang")
@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_int8, "the weights are quantised (bitsandbytes in 8 bits); allowed are float32, float16"),
        (_awq, "vae/config.json: quantization_config is {'quant_method': 'awq'}: the weights are quantised"),
        (
            lambda folder: edit_json(folder / "text_encoder" / "config.json", is_decoder=True),
            "text_encoder/config.json: config of T5EncoderModel: is_decoder is True; allowed is False",
        ),
        (
            lambda folder: (folder / "tokenizer" / "spiece.model").unlink(),
            "tokenizer (T5Tokenizer) has no vocabulary, such as spiece.model",
        ),
        (
            lambda folder: (folder / "tokenizer" / "spiece.model").write_bytes(b"version https://git-lfs.gi"),
            "spiece.model: not a vocabulary; it is a git-lfs pointer",
        ),
    ],
)
def test_what_is_wrong_with_a_checkpoint_is_told_by_both_commands(
    vidgen: Vidgen,
    tmp_path: Path,
    checkpoint: Path,
    manifest: Path,
    spoil: Callable[[Path], Any],
    told: str,
) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, folder)
    spoil(folder)
    for command in (["render", manifest, tmp_path / "out"], ["manifest", "check", manifest]):
        ran = vidgen(*command, "--model", folder)
        assert ran.status == 2
        assert ran.err.startswith(str(folder))
        assert told in ran.err
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_gang")
def test_weights_of_another_model(vidgen: Vidgen, tmp_path: Path, checkpoint: Path, manifest: Path) -> None:
    """Known from the files' headers."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, folder)
    edit_json(folder / "transformer" / "config.json", num_layers=1)
    ran = vidgen("render", manifest, tmp_path / "out", "--model", folder)
    assert ran.status == 2
    assert ran.err.startswith(f"{folder / 'transformer'}: these weights do not belong to a CogVideoX")
    assert "surplus: transformer_blocks.1." in ran.err
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--task", "image-to-video"], ["'image-to-video'", "allowed: text-to-video"]),
        (["--task", "films"], ["model.task", "'films'", "'video-to-video'"]),
        (["--dtype", "float8"], ["'float8'", "float32"]),
        (["--adapter", "some/adapter"], ["model.adapter", "takes none"]),
        (["--revision", "main"], ["revision", "is a folder"]),
        (["--scheduler", "clip_sample"], ["--scheduler clip_sample: is not KEY=VALUE"]),
        (["--scheduler", "=3"], ["--scheduler =3: is not KEY=VALUE"]),
        (
            ["--scheduler", "_class_name=DDIM"],
            ["model.scheduler._class_name: 'DDIM'", "CogVideoXDDIMScheduler"],
        ),
        (["--scheduler", "spacing=leading"], ["model.scheduler.spacing: unknown key", "timestep_spacing"]),
        (["--scheduler", "steps_offset=-1"], ["model.scheduler, over", "steps_offset is -1", "from 0"]),
        (["--scheduler", "steps_offset={a: 1}"], ["command line: model.scheduler.steps_offset: {'a': 1}"]),
        (["--scheduler", "num_train_timesteps=9"], ["num_inference_steps", "num_train_timesteps, 9"]),
        (["--set", "num_frams=9"], ["sampling.num_frams", "did you mean sampling.num_frames?"]),
        (["--set", "num_frames"], ["--set num_frames", "KEY=VALUE"]),
        (["--set", "height=17"], ["sampling.height", "17", "multiple of"]),
        (["--set", "strength=0.5"], ["sampling.strength", "does not take it"]),
        (
            ["--set", "topology.replicas=3"],
            ["topology.replicas: not a field", "--option topology.replicas=3"],
        ),
        (
            ["--option", "topology.replicas"],
            ["--option topology.replicas: is not KEY=VALUE"],
        ),
        (
            ["--option", "topology.replica=2"],
            ["topology.replica: unknown key", "mean topology.replicas?"],
        ),
        (["--option", "checkpoint_every=2"], ["unknown key; did you mean output.checkpoint_every?"]),
        (["--option", "model.id.x=2"], ["model.id is given by --model and by --option model.id.x"]),
        (["--option", "topology.watchdog.denoise=0"], ["topology.watchdog.denoise: 0", "greater than 0"]),
        (["--option", "output.uri=x"], ["output.uri is given by OUTPUT and by --option; leave one"]),
        (
            ["--crf", "9", "--option", "output.crf=9"],
            ["output.crf is given by --crf and by --option"],
        ),
        (["--crf", "9", "--option", "output={}"], ["output.crf is given by --crf and by --option output;"]),
        (["--replicas", "0"], ["topology.replicas", "0"]),
        (["--replicas", "many"], ["topology.replicas", "'many'", "or auto"]),
        (["--gang", "8", "--ring", "3"], ["topology.gang: 8", "are 3 ranks", "nearest degrees of 8"]),
        (["--cfg", "3"], ["topology.cfg", "3"]),
        (["--memory", "much"], ["topology.memory", "'much'", "64GB"]),
        (["--crf", "99"], ["output.crf", "99", "51"]),
        (["--reject", "black,dark"], ["output.reject", "'dark'", "black, frozen, blown-out, noise"]),
        (["--aigc-producer", 'A"B'], ["output.aigc_producer", "200 printable characters"]),
        (["--format", "avi"], ["output.format", "'avi'", "'mp4'"]),
        (["--fps", "-1"], ["output.fps", "-1"]),
        (["--passthrough", "source"], ["'source'"]),
        (["--no-such-flag"], ["--no-such-flag"]),
    ],
)
def test_bad_flags(
    vidgen: Vidgen, tmp_path: Path, checkpoint: Path, manifest: Path, flags: list[str], parts: list[str]
) -> None:
    ran = vidgen("render", manifest, tmp_path / "out", "--model", checkpoint, *flags)
    assert ran.status == 2
    for part in parts:
        assert part in ran.err
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize("setting", ["height=31", "frame_rate=8", "image=x.png"])
def test_no_row_is_to_blame_for_a_setting(
    vidgen: Vidgen, tmp_path: Path, checkpoint: Path, manifest: Path, setting: str
) -> None:
    empty = tmp_path / "empty.parquet"
    pq.write_table(pq.read_table(manifest).slice(0, 0), empty)
    flags = ("--model", checkpoint, "--set", setting)
    for path in (manifest, empty):
        for ran in (
            vidgen("render", path, tmp_path / "out", *flags),
            vidgen("manifest", "check", path, *flags),
        ):
            assert ran.status == 2
            assert ran.err.startswith(f"sampling.{setting.partition('=')[0]}: ")
            assert ", row " not in ran.err
            assert str(path) not in ran.err


@pytest.mark.usefixtures("no_ray")
def test_what_is_missing_is_said(vidgen: Vidgen, manifest: Path, tmp_path: Path) -> None:
    assert "OUTPUT and --model missing" in vidgen("render", manifest).err
    assert "--model missing" in vidgen("render", manifest, tmp_path / "out").err
    ran = vidgen("render", tmp_path / "run.yaml")
    assert ran.status == 2
    assert "run.yaml" in ran.err


@pytest.mark.usefixtures("no_ray")
def test_a_bad_run_file(vidgen: Vidgen, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("model: {id: m}\nmanifest: {uri: a}\noutput:\n  uri: b\n  fromat: gif\n")
    ran = vidgen("render", path)
    assert ran.status == 2
    assert f"{path}, line 5: output.fromat" in ran.err
    assert "did you mean output.format?" in ran.err


@pytest.mark.usefixtures("no_ray")
def test_a_moved_output_is_asked_for_its_place(vidgen: Vidgen, specs: list[RunSpec], tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    run_file = make_output(new, names=str(old)).uri("run.yaml")
    ran = vidgen("render", run_file)
    assert (ran.status, specs) == (2, [])
    assert f"{run_file}: is in an output, but its output.uri is another place, {old}" in ran.err
    vidgen("render", run_file, new)
    vidgen("render", run_file, "--option", f"output.uri={old}")
    assert [spec.output.uri for spec in specs] == [str(new), str(old)]


@pytest.mark.usefixtures("no_ray")
def test_flags_and_run_file_are_one_thing(vidgen: Vidgen, specs: list[RunSpec], tmp_path: Path) -> None:
    flags = (
        "--task text-to-video --revision r --variant fp16 --dtype bf16 --device cpu --replicas 3 --format gif"
    )
    flags += (
        " --fps 12 --crf 20 --set num_frames=9 --set guidance_scale=15e-1 --set use_dynamic_cfg=true --seed 4"
    )
    flags += " --set negative_prompt=no"
    flags += " --ulysses 2 --ring 3 --cfg 2 --gang 12 --memory 64GB --npus 36"
    flags += " --max-attempts 5 --max-failures 2.5% --grace 10m --bad-rows fail"
    flags += " --reject black,frozen --reject blown-out --aigc-producer ACME --checkpoint-every 10"
    flags += " --passthrough source,licence --address auto --shard-size 2 --adapter a --vae-tiling"
    flags += " --scheduler _class_name=A --scheduler beta_end=12e-3"
    flags += " --scheduler clip_sample=false --scheduler x=null"
    flags += " --lora org/style:0.8 --lora ./a,b.safetensors"
    vidgen("render", "m.parquet", "out", "--model", "org/model", *flags.split())
    run_file = tmp_path / "run.yaml"
    run_file.write_text(specs[0].to_yaml())
    vidgen("render", run_file)
    changed = ("--set", "num_frames=17", "--no-vae-tiling", "--scheduler", "clip_sample=true")
    vidgen("render", run_file, "other", *changed)
    assert specs[0] == specs[1]
    assert specs[0].sampling == {
        "num_frames": 9,
        "guidance_scale": 1.5,
        "use_dynamic_cfg": True,
        "negative_prompt": "no",
    }
    assert specs[0].manifest.passthrough == ("source", "licence")
    assert specs[0].output.reject == ("black", "frozen", "blown-out")
    assert specs[0].output.aigc_producer == "ACME"
    assert specs[0].output.checkpoint_every == 10
    assert (specs[0].topology.replicas, specs[0].topology.ranks) == (3, 12)
    assert specs[0].faults == FaultsOptions(max_attempts=5, max_failures="2.5%", grace="10m", bad_rows="fail")
    assert specs[2].output.uri == "other"
    assert (specs[0].model.vae_tiling, specs[2].model.vae_tiling) == (True, False)
    settings = {"_class_name": "A", "beta_end": 0.012, "x": None}
    assert specs[0].model.scheduler == settings | {"clip_sample": False}
    assert specs[2].model.scheduler == settings | {"clip_sample": True}
    assert specs[0].model.loras == (
        LoraOptions(id="org/style", scale=0.8),
        LoraOptions(id="./a,b.safetensors"),
    )
    assert specs[2].sampling["num_frames"] == 17
    assert specs[2].topology == specs[0].topology


def test_policies_are_handed_to_the_run(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policies, handed = RunPolicies(retries=AT_ONCE), list[RunPolicies]()

    def render(*_: object, policies: RunPolicies) -> None:
        handed.append(policies)
        raise Refused("enough")

    monkeypatch.setattr(driver, "render", render)
    monkeypatch.setattr(sys, "argv", ["vidgen", "render", str(manifest), "out", "--model", "org/model"])
    for given in (None, policies):
        with pytest.raises(SystemExit):
            main(given)
    assert handed == [RunPolicies(), policies]


@pytest.mark.usefixtures("no_ray")
def test_ctrl_c_before_anything_was_started(
    vidgen: Vidgen, monkeypatch: pytest.MonkeyPatch, manifest: Path, tmp_path: Path
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(driver, "make_plan", interrupted)
    ran = vidgen("render", manifest, tmp_path / "out", "--model", "m")
    assert ran.status == 130
    assert "interrupted" in ran.err
