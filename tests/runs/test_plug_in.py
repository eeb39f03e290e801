"""A family of another package: checked, planned, rendered alone and by a gang, killed and resumed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from PIL import Image
from safetensors.numpy import save_file

from tests.families.tiny import randomised
from tests.processes import descendants
from tests.waiting import PATIENCE, wait_until
from vidgen_dist import Refused, families, nn
from vidgen_dist.kinds import Kind, Number, Text, Whole
from vidgen_dist.maintenance.export import export
from vidgen_dist.maintenance.status import read_status
from vidgen_dist.manifest import column_of
from vidgen_dist.preflight.manifest_check import check_manifest
from vidgen_dist.request import Field
from vidgen_dist.weights.checkpoint import open_checkpoint

SOURCE = Path(__file__).parents[1] / "toy_family"
STEPS = 60

INDEX = {
    "_class_name": "ToyPipeline",
    "denoiser": ["vidgen_toy", "ToyDenoiser"],
    "denoiser_2": ["vidgen_toy", "ToyDenoiser"],
    "vae": ["vidgen_toy", "ToyAutoencoder"],
    "scheduler": ["vidgen_toy", "TwoStepScheduler"],
}

Vidgen = Callable[..., subprocess.CompletedProcess[str]]


def install(folder: Path, name: str = "vidgen-toy") -> Path:
    """Install the package, as an installer does, into a folder that will be on the path."""
    project = tomllib.loads((SOURCE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    shutil.copytree(SOURCE / "vidgen_toy", folder / "vidgen_toy", dirs_exist_ok=True)
    about = folder / f"{name.replace('-', '_')}-{project['version']}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {project['version']}\n", encoding="utf-8"
    )
    lines = [f"[{families.ENTRY_POINTS}]"]
    lines += [f"{key} = {value}" for key, value in project["entry-points"][families.ENTRY_POINTS].items()]
    (about / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@contextlib.contextmanager
def on_the_path(*folders: Path) -> Iterator[None]:
    """Let this process find what is installed there."""
    with pytest.MonkeyPatch.context() as patch:
        for folder in folders:
            patch.syspath_prepend(folder)
        families.plug_ins.cache_clear()
        try:
            yield
        finally:
            families.plug_ins.cache_clear()
            for name in [name for name in sys.modules if name.partition(".")[0] == "vidgen_toy"]:
                del sys.modules[name]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def checkpoint(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy checkpoint with random weights."""
    folder = tmp_path_factory.mktemp("toy")
    configs: dict[str, dict[str, Any]] = {"denoiser": {}, "denoiser_2": {"num_layers": 1}, "vae": {}}
    (folder / "model_index.json").write_text(json.dumps(INDEX))
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({"switch_at": 0.4}))
    for name, config in configs.items():
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(config))
        save_file({"none": np.zeros(1, np.float32)}, folder / name / "model.safetensors")
    nn.set_device("cpu")
    with on_the_path(installed):
        from vidgen_dist.families.loader import build_models
        from vidgen_dist.spec import ModelOptions

        for name, model in build_models(open_checkpoint(folder), ModelOptions(id="toy")).items():
            weights = nn.named_parameters(randomised(model))
            values = {key: nn.to_numpy(parameter) for key, parameter in weights.items()}
            save_file(values, folder / name / "model.safetensors")
    return folder


@pytest.fixture
def vidgen(installed: Path) -> Vidgen:
    """Runs the command where the package is installed."""

    def run(*arguments: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
        command, env = vidgen_command(installed, *arguments)
        ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert ran.returncode == status, ran.stdout + ran.stderr
        return ran

    return run


def vidgen_command(site: Path, *arguments: str | Path) -> tuple[list[str], dict[str, str]]:
    command = [sys.executable, "-m", "vidgen_dist", *map(str, arguments)]
    return command, {**os.environ, "PYTHONPATH": path_with(site)}


def path_with(site: Path) -> str:
    return os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])


def write_manifest(folder: Path, **columns: Any) -> Path:
    """Two rows that begin with an image and have no id: the id is a digest of the columns that are read."""
    ramp = Image.linear_gradient("L").resize((48, 32))
    Image.merge("RGB", (ramp, ramp.rotate(90), ramp.rotate(180))).resize((48, 32)).save(folder / "x.png")
    path = folder / "manifest.parquet"
    pq.write_table(pa.table({"image": ["x.png", "x.png"], "seed": [1, 2], **columns}), path)
    return path


def test_a_manifest_is_checked_and_a_run_is_planned(vidgen: Vidgen, checkpoint: Path, tmp_path: Path) -> None:
    good = write_manifest(tmp_path, first_guidance_scale=[None, 2.0])
    vidgen("manifest", "check", good, "--model", checkpoint)
    bad = write_manifest(tmp_path, first_guidance_scale=[1.0, -2.0])
    for flags in ([], ["--model", checkpoint]):
        message = vidgen("manifest", "check", bad, *flags, status=2).stderr
        assert "first_guidance_scale: -2.0 is not allowed; a number from 0 to 1e+06" in message
    plan = json.loads(vidgen("plan", "--model", checkpoint, "--npus", "2", "--json").stdout)
    assert plan["family"] == "Toy"
    assert [part["name"] for part in plan["components"]] == ["denoiser", "denoiser_2", "vae"]
    assert plan["video"]["guided"]
    set_by_run = vidgen("plan", "--model", checkpoint, "--set", "first_guidance_scale=x", status=2)
    assert "sampling.first_guidance_scale" in set_by_run.stderr


def test_its_checkpoint_is_inspected_and_gets_a_run_file(
    vidgen: Vidgen, checkpoint: Path, tmp_path: Path
) -> None:
    facts = json.loads(vidgen("inspect", checkpoint, "--json").stdout)
    assert (facts["family"], facts["tasks"][0]["task"]) == ("Toy", "image-to-video")
    assert "first_guidance_scale" in [field["name"] for field in facts["tasks"][0]["fields"]]
    vidgen("init", checkpoint, tmp_path / "run.yaml")
    assert "first frame's weight of guidance" in (tmp_path / "run.yaml").read_text()
    assert json.loads(vidgen("plan", tmp_path / "run.yaml", "--json").stdout)["family"] == "Toy"


@pytest.fixture
def ray_with_toy(_ray_environment: None, installed: Path, request: pytest.FixtureRequest) -> Iterator[None]:
    """A local Ray whose workers find the package."""
    ray.shutdown()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path_with(installed))
        request.getfixturevalue("local_ray")
        yield
        ray.shutdown()


@pytest.mark.usefixtures("ray_with_toy")
def test_a_run_alone_by_a_gang_and_after_a_kill_gives_the_same_frames(
    vidgen: Vidgen, installed: Path, checkpoint: Path, tmp_path: Path
) -> None:
    # There is a prompt column, too, which such a model does not know.
    manifest = write_manifest(tmp_path, first_guidance_scale=[None, 2.0], prompt=["a fox", None])
    flags = ["--model", checkpoint, "--device", "cpu", "--format", "npy", "--checkpoint-every", "1"]
    flags += ["--address", ray.get_runtime_context().gcs_address, "--set", f"num_inference_steps={STEPS}"]
    ran = vidgen("render", manifest, tmp_path / "alone", *flags)
    assert "column 'prompt' is ignored: Toy image-to-video does not take it" in ran.stderr
    whole = frames_of(tmp_path / "alone")
    assert set(whole) == {1, 2}
    assert whole[1].shape == (3, 32, 48, 3)
    assert np.abs(whole[1].astype(int) - whole[2]).max() > 10

    gang = ("render", manifest, tmp_path / "gang", *flags, "--ulysses", "2")
    kill_when_saved(installed, gang, tmp_path / "gang")
    vidgen(*gang)
    resumed = frames_of(tmp_path / "gang")
    for seed, frames in whole.items():
        assert np.abs(resumed[seed].astype(int) - frames).max() <= 1
    assert resumed_steps(tmp_path / "gang")
    vidgen("verify", tmp_path / "gang", "--deep")
    # Counted without the model, by ids from the columns that the run has read.
    (tmp_path / "gang" / "status.json").unlink()
    status = json.loads(vidgen("status", tmp_path / "gang", "--json").stdout)
    assert (status["total"], status["done"], status["pending"]) == (2, 2, 0)
    # Without the package, such ids cannot be computed: only the ledger is counted, and no row confused.
    families.plug_ins.cache_clear()
    counted = read_status(str(tmp_path / "gang"))
    assert (counted["counted"], counted["done"], counted["pending"]) == ("ledger", 2, None)
    with pytest.raises(Refused, match=r"manifest\.fields: no family on this host has first_guidance_scale"):
        export(str(tmp_path / "gang"), "webdataset", str(tmp_path / "export"))


def kill_when_saved(site: Path, arguments: tuple[str | Path, ...], output: Path) -> None:
    """Kill a run as soon as it has saved a rendering."""
    command, env = vidgen_command(site, *arguments)
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, env=env, stdout=quiet, stderr=quiet, text=True)
    wait_until(lambda: list((output / "scratch").glob("[!.]*")), process, every=0.002)
    for pid in (*descendants(process.pid), process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def frames_of(output: Path) -> dict[int, np.ndarray]:
    """The frames of each row that is done, by its seed."""
    ledger = pq.read_table(output / "ledger").to_pylist()
    return {entry["seed"]: np.load(entry["uri"]) for entry in ledger if entry["status"] == "done"}


def resumed_steps(output: Path) -> list[int]:
    """The steps after which renderings were resumed."""
    lines = [line for log in (output / "logs").iterdir() for line in log.read_text().splitlines()]
    return [event["step"] for event in map(json.loads, lines) if event["event"] == "resumed"]


def test_rows_of_a_built_manifest_need_no_prompt(vidgen: Vidgen, checkpoint: Path, tmp_path: Path) -> None:
    write_manifest(tmp_path)
    (tmp_path / "rows.csv").write_text("image,first_guidance_scale\nx.png,\nx.png,2\n")
    vidgen("manifest", "build", tmp_path / "rows.csv", tmp_path / "built.parquet")
    vidgen("manifest", "check", tmp_path / "built.parquet", "--model", checkpoint)


@pytest.mark.parametrize("prompt", [[1, 2], [b"\xff", b"x"], [["a"], []]])
def test_ignored_columns_may_have_any_values(
    installed: Path, checkpoint: Path, tmp_path: Path, prompt: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    manifest = write_manifest(tmp_path, prompt=prompt)
    with on_the_path(installed):
        report = check_manifest(str(manifest), {"model.id": str(checkpoint)})
    assert (report.rows, report.ok) == (2, True)
    assert caplog.text.count("column 'prompt' is ignored: Toy image-to-video does not take it") == 1


def test_an_ignored_text_need_not_be_utf8(installed: Path, checkpoint: Path, tmp_path: Path) -> None:
    broken = pa.array([b"\xff", b"x"]).view(pa.string())
    manifest = write_manifest(tmp_path, prompt=broken)
    with on_the_path(installed):
        assert check_manifest(str(manifest), {"model.id": str(checkpoint)}).ok


def test_a_host_without_the_package_names_it(checkpoint: Path) -> None:
    families.plug_ins.cache_clear()
    with pytest.raises(Refused, match="'ToyPipeline' is not a pipeline that vidgen renders on this host"):
        families.find_family(open_checkpoint(checkpoint))


def test_two_packages_for_one_pipeline_are_refused(installed: Path, checkpoint: Path, tmp_path: Path) -> None:
    message = (
        "ToyPipeline is rendered by entry point toy .* of .*toy and by entry point toy .* of .*toy; only one"
    )
    another = install(tmp_path, "another-toy")
    with on_the_path(installed, another), pytest.raises(Refused, match=message):
        families.find_family(open_checkpoint(checkpoint))


def test_a_package_that_cannot_be_imported_stops_no_run_of_other_families(
    checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = install(tmp_path)
    (broken / "vidgen_toy" / "__init__.py").write_text("import nowhere_at_all\n")
    with on_the_path(broken):
        with pytest.raises(Refused, match=r"vidgen_toy:FAMILY .* cannot be used .*nowhere_at_all"):
            families.find_family(open_checkpoint(checkpoint))
        assert families.known_fields() == families.OUR_FIELDS
    assert "cannot be used" in caplog.text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": Field(Number(0, 1), "")}, "the field 'prompt', which is a column of all manifests"),
        ({"frame_rate": Field(Number(0, 1), "")}, "the field 'frame_rate', which"),
        ({"priority": Field(Whole(), "")}, "the field 'priority', which"),
        ({"status": Field(Text(), "")}, "the field 'status', which"),
        ({"depth": Field(Kind(), "")}, "no column holds a Kind; allowed: Text, "),
        (
            {"first_guidance_scale": Field(Whole(), "")},
            "'first_guidance_scale' differently from entry point toy",
        ),
    ],
)
def test_fields_that_a_package_may_not_have(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Field], message: str
) -> None:
    with on_the_path(installed):
        (toy,) = families.plug_ins().families.values()
        another = install(tmp_path, "zoo")
        about = next(another.glob("zoo*.dist-info")) / "entry_points.txt"
        about.write_text(f"[{families.ENTRY_POINTS}]\nzoo = vidgen_zoo:FAMILY\n", encoding="utf-8")
        zoo = types.ModuleType("vidgen_zoo")
        vars(zoo)["FAMILY"] = dataclasses.replace(toy, fields=fields)
        monkeypatch.setitem(sys.modules, "vidgen_zoo", zoo)
        with on_the_path(another):
            (fault,) = families.plug_ins().faults
            assert list(families.plug_ins().families.values()) == [toy]
    assert "zoo = vidgen_zoo:FAMILY" in fault
    assert message in fault


def test_a_kind_derived_from_ours_has_its_column() -> None:
    class Tenth(Whole):
        """A whole number of tenths."""

    assert column_of(Field(Tenth(), "")) is column_of(Field(Whole(), ""))
