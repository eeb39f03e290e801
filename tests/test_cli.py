"""The `vidgen` command: exit statuses, and messages that name what is wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.numpy import save

import vidgen_dist
from tests.references import edit_json
from vidgen_dist import cli
from vidgen_dist.cli import rendering
from vidgen_dist.manifest import LISTED
from vidgen_dist.runtime.driver import render as driver
from vidgen_dist.spec import FaultsOptions, RunSpec
from vidgen_dist.storage.files import read_bytes

REFERENCES = Path(__file__).parent / "references" / "cogvideox"


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    status: int
    out: str
    err: str


Vidgen = Callable[..., Ran]


@pytest.fixture
def vidgen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Vidgen:
    """Runs the command in this process."""

    def run(*arguments: str | Path) -> Ran:
        monkeypatch.setattr(sys, "argv", ["vidgen", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Ran(int(exit_.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused is refused before Ray starts."""

    def never(*_: Any) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(driver, "connected", never)


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write(tmp_path / "m.parquet", {"id": "a", "prompt": "a fox"}, {"id": "b", "prompt": "a boat"})


@pytest.fixture
def checkpoint() -> Path:
    return next(
        path for path in sorted(REFERENCES.glob("*/checkpoint")) if _class(path) == "CogVideoXPipeline"
    )


def _class(checkpoint: Path) -> str:
    return json.loads((checkpoint / "model_index.json").read_text())["_class_name"]


# --- refused before start, with the real rules of a real (tiny) checkpoint ------------------------------


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
    path = write(
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
    path = write(tmp_path / "m.parquet", *({"prompt": "x", **dict.fromkeys(names), **row} for row in bad))
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
    path = write(tmp_path / "m.parquet", {"promt": "a fox"})
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


@pytest.mark.usefixtures("no_ray")
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


@pytest.mark.usefixtures("no_ray")
def test_weights_of_another_model(vidgen: Vidgen, tmp_path: Path, checkpoint: Path, manifest: Path) -> None:
    """Known from the files' headers."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, folder)
    edit_json(folder / "transformer" / "config.json", num_layers=1)
    ran = vidgen("render", manifest, tmp_path / "out", "--model", folder)
    assert ran.status == 2
    assert ran.err.startswith(f"{folder / 'transformer'}: these weights are not those of a CogVideoX")
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
def test_a_manifest_is_checked_with_the_schedulers_settings(
    vidgen: Vidgen, checkpoint: Path, manifest: Path
) -> None:
    def checked(*settings: str) -> Ran:
        flags = [part for setting in settings for part in ("--scheduler", setting)]
        return vidgen("manifest", "check", manifest, "--model", checkpoint, *flags)

    assert checked("_class_name=CogVideoXDDIMScheduler", "trained_betas=null").status == 0
    assert (
        "model.scheduler._class_name: 'LCMScheduler' is not allowed"
        in checked("_class_name=LCMScheduler").err
    )
    ran = checked("num_train_timesteps=9")
    assert ran.status == 2
    assert "num_inference_steps: 50 is not allowed; a whole number from 1 to the scheduler's" in ran.err


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
def test_flags_and_run_file_are_one_thing(
    vidgen: Vidgen, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    specs: list[RunSpec] = []

    def remember(spec: RunSpec) -> SimpleNamespace:
        specs.append(spec)
        return SimpleNamespace(exit_status=0)

    monkeypatch.setattr(rendering, "run", remember)
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
    assert specs[2].sampling["num_frames"] == 17
    assert specs[2].topology == specs[0].topology


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


# --- the other commands ---------------------------------------------------------------------------------


def test_check_looks_at_pictures(vidgen: Vidgen, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    rows = [{"id": name, "prompt": "x", "image": f"{name}.png"} for name in ("good", "bad", "none")]
    ran = vidgen("manifest", "check", write(tmp_path / "m.parquet", *rows))
    assert ran.status == 2
    assert "row 1 (id 'bad'): image" in ran.err
    assert "row 2 (id 'none'): image" in ran.err
    assert "row 0" not in ran.err
    assert "2 of 3 rows" in ran.err


def test_check_counts_rows_not_problems(vidgen: Vidgen, tmp_path: Path) -> None:
    path = write(tmp_path / "m.parquet", {"prompt": None, "seed": 1}, {"prompt": None, "seed": 1})
    ran = vidgen("manifest", "check", path)
    assert "2 of 2 rows cannot be rendered (prompt 2, id 1)" in ran.err


def test_check_of_a_good_manifest(vidgen: Vidgen, tmp_path: Path, checkpoint: Path) -> None:
    path = write(tmp_path / "m.parquet", {"prompt": "x", "source": "web"})
    ran = vidgen("manifest", "check", path, "--model", checkpoint)
    assert ran.status == 0, ran.err
    assert "1 row, all can be rendered" in ran.out
    assert "'source'" in ran.err
    assert "'source'" not in vidgen("manifest", "check", path, "--passthrough", "source").err


@pytest.mark.parametrize("num_frames", [-3, 9])
def test_check_lists_all_bad_rows_in_a_file(vidgen: Vidgen, tmp_path: Path, num_frames: int) -> None:
    rows = [{"id": str(n), "prompt": "a fox", "num_frames": num_frames} for n in range(50)]
    path = write(tmp_path / "m" / "m.parquet", *rows)
    ran = vidgen("manifest", "check", path, "--export", tmp_path / "sub" / "bad.parquet")
    found = pq.read_table(tmp_path / "sub" / "bad.parquet")
    assert found.schema.equals(LISTED)
    if num_frames > 0:
        assert (ran.status, len(found)) == (0, 0)
        return
    assert (ran.status, len(found)) == (2, 50)
    assert "bad.parquet: 50 rows" in ran.out
    assert found.slice(49).to_pylist() == [
        {
            "id": "49",
            "row": 49,
            "file": str(path),
            "column": "num_frames",
            "value": "-3",
            "reason": "a whole number from 1 to 2147483647",
        }
    ]


@pytest.mark.parametrize("given", ["m", "m/m.parquet", "m/*.parquet"])
@pytest.mark.parametrize(
    ("export", "said"),
    [
        ("bad.csv", "allowed: *.parquet"),
        ("m/m.parquet", "lies in the manifest"),
        ("file/bad.parquet", "cannot be used for output"),
        ("memory://a/bad.parquet", "a memory of its own"),
    ],
)
def test_bad_rows_are_not_listed_where_they_cannot_be(
    vidgen: Vidgen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, export: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "m" / "m.parquet", {"prompt": "a fox"})
    before = path.read_bytes()
    (tmp_path / "file").write_bytes(b"")
    ran = vidgen("manifest", "check", given, "--export", export)
    assert (ran.status, said in ran.err) == (2, True), ran.err
    assert path.read_bytes() == before
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "m", "m.parquet"]


def test_bad_rows_are_listed_on_s3(vidgen: Vidgen, tmp_path: Path, s3_bucket: str) -> None:
    path = write(tmp_path / "m.parquet", {"prompt": "a fox"}, {"prompt": None})
    uri = f"s3://{s3_bucket}/sub/bad.parquet"
    assert vidgen("manifest", "check", path, "--export", uri).status == 2
    assert pq.read_table(pa.BufferReader(read_bytes(uri)))["column"].to_pylist() == ["prompt"]


def test_build(vidgen: Vidgen, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a fox\na boat\n")
    (tmp_path / "b.csv").write_text("prompt,num_frames\na train,9\n")
    ran = vidgen("manifest", "build", tmp_path / "a.txt", tmp_path / "b.csv", tmp_path / "m.parquet")
    assert ran.status == 0, ran.err
    assert "3 rows" in ran.out
    assert pq.read_table(tmp_path / "m.parquet")["num_frames"].to_pylist() == [None, None, 9]


def test_status_of_what_is_no_output(vidgen: Vidgen, tmp_path: Path) -> None:
    ran = vidgen("status", tmp_path)
    assert ran.status == 2
    assert "no run.yaml" in ran.err


STATUS_WITHOUT_THEM = """
import sys
sys.argv = ["vidgen", "status", sys.argv[1], "--json"]
from vidgen_dist.cli import main
try:
    main()
finally:
    print([name for name in ("mindspore", "ray", "transformers") if name in sys.modules], file=sys.stderr)
"""


def test_status_loads_neither_mindspore_nor_ray(vidgen: Vidgen, tmp_path: Path, manifest: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    run_file = f"model: {{id: m}}\nmanifest: {{uri: '{manifest}'}}\noutput: {{uri: '{output}'}}\n"
    (output / "run.yaml").write_text(run_file)
    command = [sys.executable, "-c", STATUS_WITHOUT_THEM, str(output)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = json.loads(ran.stdout)
    assert {key: found[key] for key in ("total", "done", "failed", "pending")} == {
        "total": 2,
        "done": 0,
        "failed": 0,
        "pending": 2,
    }
    assert ran.stderr.strip() == "[]"
    manifest.unlink()
    assert json.loads(vidgen("status", output, "--json").out)["total"] is None


def test_module_is_the_command() -> None:
    command = [sys.executable, "-m", "vidgen_dist", "--help"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    for name in ("render", "status", "manifest", "demo"):
        assert name in ran.stdout


def test_version(vidgen: Vidgen) -> None:
    ran = vidgen("--version")
    assert (ran.status, ran.out.strip()) == (0, vidgen_dist.__version__)
