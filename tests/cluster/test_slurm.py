"""`cluster/slurm.sbatch` on this machine, with stand-ins for Slurm's commands, from start to end."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from docs.generate import ROOT
from tests.commands import fake_vidgen
from tests.outputs import entries
from tests.processes import descendants
from tests.runs.test_ctrl_c import assert_all_gone
from tests.waiting import PATIENCE, wait_until

SCONTROL = """\
case $1 in
  show) tr , '\\n' <<< "$3" ;;
  requeue) echo "$2" >> {folder}/requeued ;;
esac
"""

SRUN = """\
node=
while [[ $1 == -* ]]; do
  if [ "$1" = -w ]; then node=$2; shift; fi
  shift
done
echo "$node ${{1##*/}}" >> {folder}/steps
{more}
exec "$@"
"""

TWO_NODES = """\
# Both nodes are this machine: what hosts have for themselves is given to each here.
case $1 in
  */start-head.sh) set -- "$@" --temp-dir={ray} --include-dashboard=false --ray-client-server-port={port} ;;
esac
case $1 in
  */start-*.sh) set -- "$@" --num-cpus=2 --resources='{{"NPU": 1}}' --object-store-memory=80000000 \\
    --min-worker-port=0 --max-worker-port=0 --dashboard-agent-listen-port=0 ;;
esac
"""

VIDGEN = 'cd {root} && exec {command} "$@"\n'


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def job_id() -> int:
    """A job's number for which the script takes a free port."""
    while not 20_000 <= (port := free_port()) < 40_000:
        pass
    return port - 20_000


def processes_of(ray_folder: Path) -> list[str]:
    """Command lines of processes of a Ray with this temporary folder."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        # Processes end while they are looked at.
        with suppress(FileNotFoundError, ProcessLookupError):
            found.append(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in found if str(ray_folder) in line]


def stand_in(folder: Path, name: str, script: str) -> None:
    """A command for the script, in front of the real one."""
    file = folder / "bin" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"#!/bin/bash\n{script}")
    file.chmod(0o755)


@contextmanager
def batch(folder: Path, run_file: Path, nodes: str) -> Iterator[subprocess.Popen[str]]:
    """The batch script, as Slurm starts it on the first node."""
    before = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = {
        **before,
        "PATH": f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "SLURM_JOB_ID": str(job_id()),
        "SLURM_JOB_NODELIST": nodes,
        "SLURM_SUBMIT_DIR": str(ROOT),
        # As in the tests' own Rays.
        "RAY_worker_niceness": "0",
    }
    process = subprocess.Popen(
        ["bash", str(ROOT / "cluster" / "slurm.sbatch"), str(run_file)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )
    try:
        yield process
    finally:
        for pid in (process.pid, *descendants(process.pid)):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.communicate()


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """Ray's temporary folder: paths of sockets must be short."""
    folder = Path(tempfile.mkdtemp(prefix="vg-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_a_run_on_two_nodes_that_the_time_limit_interrupts(
    make_manifest: Callable[..., str], tmp_path: Path, ray_folder: Path
) -> None:
    """It finishes its rows, is queued again, and goes on; the exit status is that of the run."""
    stand_in(tmp_path, "scontrol", SCONTROL.format(folder=tmp_path))
    more = TWO_NODES.format(ray=ray_folder, port=free_port())
    stand_in(tmp_path, "srun", SRUN.format(folder=tmp_path, more=more))
    stand_in(tmp_path, "vidgen", VIDGEN.format(root=ROOT, command=" ".join(fake_vidgen())))
    go, signs, output = tmp_path / "go", tmp_path / "signs", tmp_path / "out"
    signs.mkdir()
    # The time limit comes while the first two are rendered; two nodes with an NPU each render them.
    prompts = [f"sign:{signs} touch:{tmp_path}/began-{i} wait:{go}" for i in range(4)]
    manifest = make_manifest(*prompts, "raise:oops")
    run_file = tmp_path / "run.yaml"
    run_file.write_text(
        f"model: {{id: fake}}\nmanifest: {{uri: {manifest}}}\noutput: {{uri: {output}, format: npy}}\n"
        "topology: {device: ascend, replicas: 2, shard_size: 1}\n"
    )
    with batch(tmp_path, run_file, "alpha,beta") as process:
        wait_until(lambda: len(list(tmp_path.glob("began-*"))) == 2, process)
        children = descendants(process.pid)
        process.send_signal(signal.SIGUSR1)
        assert process.stdout is not None
        wait_until(lambda: "finishing the rows" in process.stdout.readline(), process, every=0)
        go.touch()
        said, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 130, said
    assert "interrupted" in said
    assert_all_gone(children)
    done = {entry["id"] for entry in entries(output) if entry["status"] == "done"}
    assert 2 <= len(done) < 5
    assert (tmp_path / "requeued").read_text().split() != []
    steps = (tmp_path / "steps").read_text().splitlines()
    assert sorted(steps[1:]) == ["alpha start-head.sh", "beta start-worker.sh"]
    # Each node's NPU rendered.
    assert len({sign.name.split(",")[1] for sign in signs.iterdir()}) == 2

    with batch(tmp_path, run_file, "alpha,beta") as process:
        said, _ = process.communicate(timeout=PATIENCE)
    # One row has failed.
    assert process.returncode == 1, said
    status = {entry["id"]: entry["status"] for entry in entries(output)}
    assert status == {**dict.fromkeys("abcd", "done"), "e": "failed"}
    assert len(entries(output)) == 5
    assert len((tmp_path / "requeued").read_text().splitlines()) == 1
    assert not processes_of(ray_folder)


START = {
    "ray": 'trap "exit 0" TERM\nwhile true; do sleep 0.05; done\n',
    # The hosts that have joined.
    "python3": "echo 1\n",
}


def little_cluster(folder: Path, *, vidgen: str, **commands: str) -> Path:
    """Stand-ins for all that the script calls; returns a run file."""
    stand_in(folder, "scontrol", SCONTROL.format(folder=folder))
    stand_in(folder, "srun", SRUN.format(folder=folder, more=""))
    for name, script in {**START, **commands, "vidgen": vidgen}.items():
        stand_in(folder, name, script)
    run_file = folder / "run.yaml"
    run_file.touch()
    return run_file


def test_a_run_that_is_cancelled_finishes_and_is_not_queued_again(tmp_path: Path) -> None:
    vidgen = f'trap "sleep 0.2; exit 130" TERM\ntouch {tmp_path}/began\nwhile true; do sleep 0.05; done\n'
    with batch(tmp_path, little_cluster(tmp_path, vidgen=vidgen), "alpha") as process:
        wait_until((tmp_path / "began").exists, process)
        children = descendants(process.pid)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 130, said
    assert_all_gone(children)
    assert not (tmp_path / "requeued").exists()


@pytest.mark.parametrize("status", [0, 1, 2])
def test_the_exit_status_is_that_of_the_run(tmp_path: Path, status: int) -> None:
    run_file = little_cluster(tmp_path, vidgen=f'echo "$@" > {tmp_path}/arguments\nexit {status}\n')
    with batch(tmp_path, run_file, "alpha") as process:
        said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == status, said
    render, file, flag, address = (tmp_path / "arguments").read_text().split()
    assert (render, file, flag) == ("render", str(run_file), "--address")
    assert address.rpartition(":")[2].isdigit()


@pytest.mark.parametrize("fails", ["--head", "--address"])
def test_a_host_that_cannot_start_ray_ends_the_job(tmp_path: Path, fails: str) -> None:
    """The head's host, or another one's."""
    ray = (
        '[ "$1" = start ] || exit 0\n'
        f'if [[ "$*" == *{fails}* ]]; then echo no port >&2; exit 1; fi\n{START["ray"]}'
    )
    run_file = little_cluster(tmp_path, vidgen=f"touch {tmp_path}/began\n", ray=ray)
    with batch(tmp_path, run_file, "alpha,beta") as process:
        said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "no port" in said
    assert "could not start Ray, or join the cluster" in said
    assert not (tmp_path / "began").exists()
