"""`jobs/submit.py`, which needs Ray alone; `tests/runtime/test_submission.py` submits to a cluster."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.clusters import free_ports

NO_DASHBOARD = f"http://127.0.0.1:{free_ports(1)[0]}"
SCRIPT = Path(__file__).parents[2] / "jobs" / "submit.py"
RUN = "model: {id: org/model}\nmanifest: {uri: s3://bucket/m.parquet}\noutput: {uri: /shared/out}\n"


@pytest.fixture(scope="module")
def submitting() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def test_it_needs_nothing_of_ours() -> None:
    code = (
        f"import runpy, sys; runpy.run_path({str(SCRIPT)!r}); "
        "sys.exit(any(name.startswith('vidgen_dist') for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_flags_are_read_on_the_cluster(submitting: dict[str, Any]) -> None:
    command = submitting["entrypoint"]({"--option": ["seed=1"], "--set": ["prompt=a red fox"]})
    assert command == ("exec vidgen render run.yaml --address auto --option seed=1 --set 'prompt=a red fox'")


@pytest.mark.parametrize(
    ("run", "options", "said"),
    [
        (RUN, [], []),
        (RUN, ["output.uri=out"], ["output.uri: out"]),
        (RUN.replace("s3://bucket/", "file://"), [], ["manifest.uri: file://m.parquet"]),
        (RUN.replace("s3://bucket/", ""), ["manifest.uri=hf://datasets/a/b.parquet"], []),
        ("- a list", [], []),
    ],
)
def test_relative_paths(submitting: dict[str, Any], run: str, options: list[str], said: list[str]) -> None:
    assert submitting["relative_places"](run, options) == said


@pytest.mark.parametrize(
    ("address", "run", "said"),
    [
        ("head:6379", RUN, "head:6379: not a dashboard's address; allowed: http"),
        (NO_DASHBOARD, RUN, f"Failed to connect to Ray at address: {NO_DASHBOARD}"),
        (NO_DASHBOARD, "a: [", "run.yaml: while parsing"),
        (
            NO_DASHBOARD,
            RUN.replace("/shared/", ""),
            "output.uri: out: a relative path; allowed: URIs",
        ),
    ],
    # Ports differ from process to process, and names of tests must not.
    ids=["not HTTP", "nobody listens", "not YAML", "relative"],
)
def test_what_cannot_be_submitted_is_refused(
    submitting: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    address: str,
    run: str,
    said: str,
) -> None:
    (tmp_path / "run.yaml").write_text(run)
    with pytest.raises(SystemExit) as exit_:
        submitting["main"]([address, str(tmp_path / "run.yaml")])
    said_all = capsys.readouterr().err
    assert exit_.value.code == 2, said_all
    assert said in said_all
