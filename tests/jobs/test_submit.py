"""`jobs/submit.py` as far as it goes without a cluster."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.output.test_run_file import make_output
from vidgen_dist.errors import Refused

ROOT = Path(__file__).parents[2]
RUN_FILE = str(ROOT / "jobs" / "cogvideox-5b-i2v.yaml")
NO_CLUSTER = ["http://127.0.0.1:1", "jobs/cogvideox-2b.yaml"]
ELSEWHERE = ["manifest.uri=s3://bucket/m.parquet", "output.uri=/shared/out"]


class Client:
    """What a cluster is handed."""

    def __init__(self) -> None:
        self.run: dict[str, Any] = {}

    def submit_job(self, *, runtime_env: dict[str, str], **_: Any) -> str:
        self.run = yaml.safe_load((Path(runtime_env["working_dir"]) / "run.yaml").read_text())
        return "job"


@pytest.fixture(scope="module")
def submitting() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "jobs" / "submit.py"))


def test_settings_are_read_as_the_command_reads_them(submitting: dict[str, Any]) -> None:
    client = Client()
    settings = ["sampling.negative_prompt=no", "sampling.guidance_scale=1e1", "topology.replicas=auto"]
    spec = submitting["read_spec"](RUN_FILE, [*ELSEWHERE, *settings, "sampling.image=/shared/1"])
    assert submitting["submit"](client, spec) == "job"
    assert client.run["sampling"]["negative_prompt"] == "no"
    assert client.run["sampling"]["guidance_scale"] == 10.0
    assert client.run["sampling"]["image"] == "/shared/1"
    assert client.run["topology"]["replicas"] == "auto"
    assert client.run["output"]["uri"] == "/shared/out"


def test_a_moved_output_is_asked_for_its_place(submitting: dict[str, Any], tmp_path: Path) -> None:
    run_file = make_output(tmp_path / "new", names=str(tmp_path / "old")).uri("run.yaml")
    with pytest.raises(Refused, match=r"is in an output, but its output\.uri is another place"):
        submitting["read_spec"](run_file)
    assert submitting["read_spec"](run_file, ELSEWHERE).output.uri == "/shared/out"


def test_sampling_fields_and_keys_by_the_flag_of_old(submitting: dict[str, Any]) -> None:
    settings = ["num_frames=17", "negative_prompt=no", "topology.replicas=3", "sampling.eta=0.5"]
    settings.append("faults={max_attempts: 5}")
    spec = submitting["read_spec"](RUN_FILE, ELSEWHERE, settings)
    assert (spec.faults.max_attempts, spec.topology.replicas, spec.output.uri) == (5, 3, "/shared/out")
    assert {name: spec.sampling[name] for name in ("num_frames", "negative_prompt", "eta")} == {
        "num_frames": 17,
        "negative_prompt": "no",
        "eta": 0.5,
    }


def test_what_the_cluster_raises_is_refused(submitting: dict[str, Any]) -> None:
    class Failing:
        def submit_job(self, **_: Any) -> str:
            raise Exception("Request failed with status 500: runtime_env")

    spec = submitting["read_spec"](RUN_FILE, [*ELSEWHERE, "sampling.image=/shared/1"])
    with pytest.raises(Refused, match="does not accept the job: Exception: Request failed with status 500"):
        submitting["submit"](Failing(), spec)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("manifest.uri=m.parquet", "manifest.uri: 'm.parquet'"),
        ("output.uri=file://out", "output.uri: 'file://out'"),
        ("output.uri=~/out", "output.uri: '~/out'"),
        ("sampling.image=fox.png", "sampling.image: 'fox.png'"),
        ("model.id=./org/model", "model.id: './org/model'"),
        ("model.id=org/model", "model.id: 'org/model' is not allowed; a hub id or an absolute path"),
    ],
)
def test_paths_that_are_others_on_the_cluster(
    submitting: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, said: str
) -> None:
    (tmp_path / "org" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    client = Client()
    with pytest.raises(Refused, match=said):
        submitting["submit"](client, submitting["read_spec"](RUN_FILE, [*ELSEWHERE, setting]))
    assert client.run == {}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no-address", "jobs/cogvideox-2b.yaml"], "no-address: not a dashboard's address; allowed: http"),
        (["head:6379", "jobs/cogvideox-2b.yaml"], "head:6379: not a dashboard's address; allowed: http"),
        (
            ["http://127.0.0.1:1", "jobs/cogvideox-2b.yaml"],
            "http://127.0.0.1:1: no dashboard answers: Connec",
        ),
        ([*NO_CLUSTER, "--option", "model.id"], "--option model.id: is not KEY=VALUE, such as"),
        (
            [*NO_CLUSTER, "--option", "model.dtyp=x"],
            "unknown key; did you mean model.dtype? allowed: id, task",
        ),
        ([*NO_CLUSTER, "--option", "replicas=2"], "did you mean topology.replicas? allowed: model, manifest"),
        ([*NO_CLUSTER, "--set", "model.id"], "--set model.id: is not KEY=VALUE"),
        ([*NO_CLUSTER, "--option", "seed={a: ["], "command line: seed: "),
        ([*NO_CLUSTER, "--set", "seed=4"], "--set seed: is ambiguous; --option seed=N is the run's seed"),
        ([*NO_CLUSTER, "--set", "num_frams=9"], "did you mean sampling.num_frames?"),
    ],
)
def test_what_cannot_be_submitted_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["submit.py", *arguments])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path("jobs/submit.py", run_name="__main__")
    said_all = capsys.readouterr().err
    assert exit_.value.code == 2, said_all
    assert said in said_all
