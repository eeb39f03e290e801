"""Runs that Python starts beside itself, with the fast fake engine."""

from __future__ import annotations

import _thread
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray

import vidgen_dist
from tests.commands import fake_vidgen
from tests.maintenance.outputs import write_status
from tests.waiting import PATIENCE, wait_until
from vidgen_dist.background.handle import ATTACHED, LOG_LINES, RunHandle, start
from vidgen_dist.errors import Refused
from vidgen_dist.ledger import SCHEMA
from vidgen_dist.output.ledger_committer import CommitPolicy
from vidgen_dist.output.status_file import StatusPolicy
from vidgen_dist.runtime.driver.policies import RunPolicies
from vidgen_dist.spec import RunSpec

MakeSpec = Callable[..., RunSpec]
MakeManifest = Callable[..., str]
Begin = Callable[..., RunHandle]

_EAGER = RunPolicies(
    status=StatusPolicy(update_seconds=0.0, local_seconds=0.1),
    commit=CommitPolicy(min_entries=1, part_seconds=0.0, tick_seconds=0.05),
)
COMMAND = [*fake_vidgen(_EAGER), "--attached"]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def address(local_ray: None) -> str:
    """The address of the cluster that the tests share."""
    assert local_ray is None
    return ray.get_runtime_context().gcs_address


@pytest.fixture
def begin(address: str, make_spec: MakeSpec, make_manifest: MakeManifest) -> Begin:
    """Starts a run of rows with these prompts on the cluster that the tests share."""

    def run(*prompts: str, **flags: object) -> RunHandle:
        return start(make_spec(make_manifest(*prompts), topology__address=address, **flags), COMMAND)

    return run


def test_a_run_from_its_start_to_its_end(begin: Begin, tmp_path: Path) -> None:
    go = tmp_path / "go"
    (tmp_path / "out").mkdir()
    # What an earlier run has left is not taken for this run's.
    write_status(tmp_path / "out", run="before", state="finished")
    run = begin("a <b>fox</b>", "raise:oops", f"wait:{go}", output__format="mp4", topology__shard_size=1)
    assert run.progress().state == "starting"
    with pytest.raises(TimeoutError, match=r"the run goes on after 0\.01 s"):
        run.wait(0.01)
    wait_until(lambda: run.progress().state == "running")
    wait_until(lambda: len(run.results()) == 2)
    go.touch()
    ended = run.wait(PATIENCE)
    assert (ended.state, ended.exit_status, ended.message) == ("finished", 1, "")
    assert (ended.total, ended.done, ended.failed, ended.pending) == (3, 2, 1, 0)
    assert run.progress() == ended
    results = run.results()
    assert results.schema.equals(SCHEMA)
    assert dict(zip(results["id"].to_pylist(), results["status"].to_pylist(), strict=True)) == {
        "a": "done",
        "b": "failed",
        "c": "done",
    }
    assert any("failed: b: RuntimeError: oops" in line for line in run.log)
    assert repr(run) == f"<run into {tmp_path / 'out'}: finished, 3 of 3 rows, 1 failed, {_pace(repr(run))}>"
    assert 'max="3" value="3"' in run._repr_html_()
    one = run.show(1)
    assert one.text.count('<video src="data:video/mp4;base64,') == 1
    assert "a &lt;b&gt;fox&lt;/b&gt;" in one.text
    assert repr(one) == f"a: {results['uri'][results['id'].to_pylist().index('a')]}"
    assert run.show().text.count("<video") == 2


def _pace(text: str) -> str:
    return text.rpartition(", ")[2].removesuffix(">")


def test_what_is_wrong_with_a_spec_is_refused_here(tmp_path: Path, make_spec: MakeSpec) -> None:
    whole = {"model": {"id": "m"}, "manifest": {"uri": "m.parquet"}, "output": {"uri": str(tmp_path)}}
    with pytest.raises(Refused, match=r"^vidgen_dist\.render: topology\.replicas: 0 is not allowed"):
        vidgen_dist.render({**whole, "topology": {"replicas": 0}})
    with pytest.raises(Refused, match=r"topology\.replica: unknown key; did you mean topology\.replicas"):
        vidgen_dist.render(make_spec("m.parquet"), overrides={"topology.replica": 1})
    with pytest.raises(Refused, match=r"no-such\.yaml"):
        vidgen_dist.render(tmp_path / "no-such.yaml")
    with pytest.raises(Refused, match="http:// can only be read"):
        vidgen_dist.render(make_spec("m.parquet"), overrides={"output.uri": "http://web/out"})


def test_what_the_run_refuses_is_raised_by_wait_and_results(begin: Begin) -> None:
    run = begin("x", model__id="refused-by-workers")
    for ask in (run.wait, run.results):
        with pytest.raises(Refused, match=r"^transformer\.weight: missing$"):
            ask()
    assert (run.progress().state, run.progress().exit_status) == ("refused", 2)
    assert run.progress().message == "transformer.weight: missing"


def test_a_model_that_cannot_be_used_is_refused_by_the_real_command(make_spec: MakeSpec) -> None:
    run = start(make_spec("none.parquet"), ATTACHED)
    with pytest.raises(Refused, match=r"^model 'fake' is neither"):
        run.wait(PATIENCE)


@pytest.fixture
def heeds_ctrl_c() -> Iterator[None]:
    """A shell starts what it leaves in the background without Python's handler of SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_ctrl_c")
def test_an_interrupt_of_wait_does_not_end_the_run(begin: Begin, tmp_path: Path) -> None:
    go = tmp_path / "go"
    run = begin(f"touch:{tmp_path / 'began'} wait:{go}")
    wait_until((tmp_path / "began").exists)
    timer = threading.Timer(0.2, _thread.interrupt_main)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        run.wait(PATIENCE)
    timer.join()
    assert run.progress().state == "running"
    go.touch()
    assert run.wait(PATIENCE).exit_status == 0


def test_cancel_lets_rows_finish_that_are_being_rendered(begin: Begin, tmp_path: Path) -> None:
    go = tmp_path / "go"
    run = begin(*[f"touch:{tmp_path}/began-{i} wait:{go}" for i in range(9)], faults__grace="2h")
    wait_until(lambda: list(tmp_path.glob("began-*")))
    threading.Timer(0.5, go.touch).start()
    ended = run.cancel()
    assert (ended.state, ended.exit_status) == ("interrupted", 130)
    assert ended.done is not None
    assert 1 <= ended.done < 9
    # What has ended stays so.
    assert run.cancel() == ended


def test_cancel_stops_at_once_when_its_grace_is_over(begin: Begin, tmp_path: Path) -> None:
    run = begin(f"touch:{tmp_path / 'began'} wait:{tmp_path / 'never'}", faults__grace="2h")
    wait_until((tmp_path / "began").exists)
    ended = run.cancel(grace=0.1)
    assert (ended.state, ended.done, ended.pending) == ("interrupted", 0, 1)


def test_a_storage_that_fails_does_not_spoil_what_is_shown(make_spec: MakeSpec) -> None:
    run = start(make_spec("m.parquet"), [sys.executable, "-c", "import sys; sys.stdin.read()"])
    (Path(run.output) / "status.json").mkdir(parents=True)
    with pytest.raises(OSError, match=r"status\.json"):
        run.progress()
    assert "starting, the output cannot be read: " in repr(run)
    assert "the output cannot be read" in run._repr_html_()
    run._process.kill()


def test_a_run_that_is_killed_has_died(begin: Begin, tmp_path: Path) -> None:
    run = begin(f"touch:{tmp_path / 'began'} wait:{tmp_path / 'never'}")
    wait_until((tmp_path / "began").exists)
    os.kill(run.pid, signal.SIGKILL)
    ended = run.wait(PATIENCE)
    assert (ended.state, ended.exit_status) == ("died", -signal.SIGKILL)
    assert "ended with status -9" in ended.message


_PARENT = """
import sys
from tests.background.test_handle import COMMAND
from vidgen_dist.background.handle import start
from vidgen_dist.output.run_file import load_spec
run = start(load_spec(sys.argv[1]), COMMAND)
del run
import gc; gc.collect()
print("started", flush=True)
sys.stdin.read()
"""


def test_a_run_ends_with_the_process_that_started_it_and_not_with_the_handle(
    address: str, make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path
) -> None:
    go, output = tmp_path / "go", tmp_path / "out"
    prompts = [f"touch:{tmp_path}/began-{i} wait:{go}" for i in range(9)]
    spec = make_spec(make_manifest(*prompts), topology__address=address, faults__grace="2h")
    (tmp_path / "run.yaml").write_text(spec.to_yaml())
    command = [sys.executable, "-c", _PARENT, str(tmp_path / "run.yaml")]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        wait_until(lambda: list(tmp_path.glob("began-*")), parent)
        parent.kill()
    wait_until(lambda: '"running"' in (output / "status.json").read_text())
    go.touch()
    wait_until(lambda: '"interrupted"' in (output / "status.json").read_text())


def test_the_log_is_bounded(make_spec: MakeSpec) -> None:
    code = (
        "import sys\nfor i in range(2000): print(i)\nprint('\\x1ewhat is wrong\\nin two lines'); sys.exit(2)"
    )
    run = start(make_spec("m.parquet"), [sys.executable, "-c", code])
    with pytest.raises(Refused, match=r"^what is wrong\nin two lines$"):
        run.wait(PATIENCE)
    assert len(run.log) == LOG_LINES
    assert run.log[-3:] == ("1999", "what is wrong", "in two lines")


def test_the_package_loads_nothing_heavy_for_it() -> None:
    heavy = "[name for name in ('ray', 'mindspore', 'IPython') if name in sys.modules]"
    code = f"import sys, vidgen_dist; vidgen_dist.render; print({heavy})"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    assert ran.stdout.strip() == "[]"
