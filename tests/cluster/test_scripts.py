"""The shell scripts of `cluster/`: shellcheck, what sees CANN, and what waits before a pod ends."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from docs.generate import ROOT
from tests.cluster.manifests import CLUSTER
from tests.processes import descendants
from tests.waiting import PATIENCE, wait_until

SCRIPTS = sorted([*CLUSTER.glob("*.sh"), *CLUSTER.glob("*.sbatch"), ROOT / ".ci" / "run"])


@pytest.mark.skipif(
    shutil.which("shellcheck") is None, reason="shellcheck is not installed: apt-get install shellcheck"
)
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_shellcheck_has_nothing_to_say(script: Path) -> None:
    ran = subprocess.run(
        ["shellcheck", "--external-sources", str(script.relative_to(ROOT))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_scripts_that_are_called_can_be_executed() -> None:
    for script in CLUSTER.glob("*.sh"):
        # The other one is sourced.
        assert bool(script.stat().st_mode & 0o111) == (script.name != "cann-env.sh"), script.name


def test_a_command_sees_the_settings_of_cann(tmp_path: Path) -> None:
    settings = tmp_path / "cann-env.sh"
    settings.write_text("export ASCEND_HOME=$not_set/cann\n")
    ran = subprocess.run(
        [str(CLUSTER / "with-cann.sh"), "bash", "-c", 'echo "$ASCEND_HOME"; exit 3'],
        env={"PATH": "/usr/bin:/bin", "CANN_ENV": str(settings)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (3, "/cann\n")


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A folder like /proc that knows only the processes that a test puts into it."""
    folder = tmp_path / "proc"
    folder.mkdir()
    return folder


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(proc: Path) -> Iterator[Start]:
    """Starts Python code with a command line, and puts the process into `proc`."""
    started = []

    def run(code: str, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        (proc / str(process.pid)).symlink_to(f"/proc/{process.pid}")
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


DRIVER = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: print("asked", flush=True))
print("up", flush=True)
time.sleep(3600)
"""


def drain(proc: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([str(CLUSTER / "drain.sh"), str(proc)])


def test_a_head_asks_its_runs_to_end_and_waits_for_them(proc: Path, start: Start) -> None:
    driver = start(DRIVER, "/usr/local/bin/vidgen", "render", "run.yaml")
    other = start(DRIVER, "/usr/local/bin/vidgen-something", "vidgen")
    for process in (driver, other):
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
    draining = drain(proc)
    try:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "asked\n"
        assert draining.poll() is None
        driver.kill()
        driver.wait()
        assert draining.wait(PATIENCE) == 0
    finally:
        draining.kill()
        draining.wait()
    assert other.poll() is None


@pytest.mark.usefixtures("local_ray")
def test_a_worker_waits_for_its_renderers(proc: Path) -> None:
    """Ray names their processes after the actor's class."""
    import ray

    from vidgen_dist.runtime.worker.actor import WorkerActor

    @ray.remote
    class Named:
        def pid(self) -> int:
            import os

            return os.getpid()

    renderer = Named.options(num_cpus=0).remote()
    pid = ray.get(renderer.pid.remote())
    title = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0 ").decode()
    assert title.startswith("ray::Named")
    # A process of that name, as an actor of that class has it.
    name = title.replace("Named", WorkerActor.__name__)
    folder = proc / "1"
    folder.mkdir()
    (folder / "cmdline").write_bytes(name.encode() + b"\0\0\0")
    draining = drain(proc)
    try:
        # It looks once a second, and has looked when its `sleep` is there.
        wait_until(lambda: descendants(draining.pid))
        assert draining.poll() is None
        (folder / "cmdline").unlink()
        assert draining.wait(PATIENCE) == 0
    finally:
        draining.kill()
        draining.wait()
        ray.kill(renderer)
