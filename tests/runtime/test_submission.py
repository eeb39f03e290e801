"""Runs as jobs of a real `ray start --head`, and what a dashboard may do."""

from __future__ import annotations

import http.server
import io
import json
import signal
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from tests.commands import Vidgen
from tests.runs.drivers import ledger
from tests.runtime.clusters import Cluster, free_ports, ray_cluster
from tests.waiting import PATIENCE, wait_until
from vidgen_dist.cli.submission import _LogView
from vidgen_dist.errors import Refused
from vidgen_dist.runtime.submission import (
    ADDRESS_VARIABLES,
    Dashboard,
    JobPolicy,
    LostJob,
    find_address,
    oldest_ray,
)

TOKEN = "4f" * 32
NO_DASHBOARD = f"http://127.0.0.1:{free_ports(1)[0]}"
QUICK = JobPolicy(answer_seconds=20, silence_seconds=0.2, reconnect_seconds=0.4, poll_seconds=0.01)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster that requires a token, as `ray start` of a host that has one."""
    with ray_cluster(TOKEN) as started:
        yield started


@pytest.fixture
def run_file(make_manifest: Callable[..., str], tmp_path: Path) -> Callable[..., Path]:
    """Writes a run file beside a manifest with these rows, which it names by a relative path."""

    def make(*rows: dict[str, Any] | str) -> Path:
        make_manifest(*rows)
        path = tmp_path / "run.yaml"
        path.write_text(
            f"model: {{id: fake}}\nmanifest: {{uri: {tmp_path}/manifest.parquet}}\n"
            f"output: {{uri: {tmp_path}/out, format: npy}}\ntopology: {{device: cpu, replicas: 2}}\n"
        )
        return path

    return make


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def test_a_run_and_the_same_run_again(
    cluster: Cluster, run_file: Callable[..., Path], tmp_path: Path, vidgen: Vidgen
) -> None:
    output = tmp_path / "out"
    # Rows without ids are known by their content.
    run = run_file({"prompt": "a fox"}, {"prompt": "a dog"}, {"prompt": "raise:no"})
    status, out, err = ended(cluster.vidgen("submit", run, "--shared", output, "--follow"))
    # The run's own status: a row has failed.
    assert status == 1, (out, err)
    job_id = out.splitlines()[0]
    assert job_id.startswith("raysubmit_")
    assert "done     2" in out
    assert "plan: unknown here: model 'fake'" in err
    assert f"{job_id}: failed" in err
    # The package is Ray's own, and it removes it; the output's copy stays.
    counts = json.loads(vidgen("status", output, "--json").out)
    assert (counts["counted"], counts["total"], counts["done"]) == ("run", 3, 2)
    assert counts["manifest"].startswith(f"{output}/manifest/")
    status, out, _ = ended(cluster.vidgen("submit", run, "--shared", output, "--follow"))
    assert status == 1
    assert "done     2 (2 of them before)" in out
    jobs = json.loads(ended(cluster.vidgen("jobs", "list", "--json"))[1])
    assert [(job["status"], job["model"], job["exit_code"]) for job in jobs] == [("failed", "fake", 1)] * 2
    assert jobs[0]["id"] == job_id
    assert jobs[0]["output"] == str(output)


def test_a_job_is_left_and_stopped(cluster: Cluster, run_file: Callable[..., Path], tmp_path: Path) -> None:
    go = tmp_path / "go"
    # After the request to stop, a row takes longer than the three seconds that Ray allows by default.
    slow = f"wait:{go} sleep:4"
    run = run_file(f"touch:{tmp_path / 'begun'} {slow}", slow, slow)
    output = tmp_path / "out"
    following = cluster.vidgen("submit", run, "--shared", output, "--grace", "50s", "--follow")
    assert following.stdout is not None
    job_id = following.stdout.readline().strip()
    wait_until((tmp_path / "begun").exists)
    following.send_signal(signal.SIGINT)
    status, _, err = ended(following)
    assert status == 130
    assert f"the job goes on; `vidgen jobs stop {job_id} --address {cluster.address}` stops it" in err
    stopping = cluster.vidgen("jobs", "stop", job_id)
    assert stopping.stderr is not None
    assert f"{job_id} was asked to stop; it has 110 s" in stopping.stderr.readline()
    go.touch()
    status, out, err = ended(stopping)
    assert (status, out) == (0, f"{job_id}: stopped\n"), err
    done = ledger(output)
    assert done["a"] == "done"
    assert "c" not in done
    status, out, err = ended(cluster.vidgen("jobs", "logs", job_id, "--follow"))
    assert status == 130
    assert "interrupted; run it again to go on" in out
    assert f"{job_id}: stopped" in err


def test_what_is_no_job_of_ours(cluster: Cluster) -> None:
    other = cluster.submit("true")
    status, _, err = ended(cluster.vidgen("jobs", "stop", other))
    assert (status, err) == (2, f"{other}: was not submitted by `vidgen submit`; for it there is `ray job`\n")
    status, _, err = ended(cluster.vidgen("jobs", "logs", "raysubmit_none"))
    assert (status, err) == (2, f"raysubmit_none: no such job at {cluster.address}; see `vidgen jobs list`\n")


@pytest.mark.parametrize(
    ("mode", "token", "said"),
    [
        ("disabled", TOKEN, "the cluster requires a token: set RAY_AUTH_MODE=token"),
        ("token", "5e" * 32, "the cluster refuses the token"),
    ],
)
def test_tokens_that_are_refused(cluster: Cluster, mode: str, token: str, said: str) -> None:
    status, _, err = ended(cluster.vidgen("jobs", "list", RAY_AUTH_MODE=mode, RAY_AUTH_TOKEN=token))
    assert status == 2
    assert err.startswith(f"{cluster.address}: {said}")


def test_a_cluster_without_a_token() -> None:
    with ray_cluster(None) as open_cluster:
        open_cluster.submit("true")
        # It lists ours alone.
        assert ended(open_cluster.vidgen("jobs", "list", "--json")) == (0, "[]\n", "")


# --- without a cluster ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--address", "head:6379"],
            "--address head:6379: not a dashboard's address; allowed: http",
        ),
        (["--address", NO_DASHBOARD], f"{NO_DASHBOARD}: no dashboard answers"),
        (
            [],
            "no cluster: give its dashboard with --address http://HEAD:8265, or set RAY_",
        ),
    ],
    # Ports differ from process to process, and names of tests must not.
    ids=["not HTTP", "nobody listens", "no address"],
)
def test_no_dashboard(
    vidgen: Vidgen,
    run_file: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    said: str,
) -> None:
    for name in ADDRESS_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for command in (
        ["submit", run_file("a fox")],
        ["jobs", "list"],
        ["jobs", "logs", "x"],
        ["jobs", "stop", "x"],
    ):
        ran = vidgen(*command, *arguments)
        assert (ran.status, ran.out) == (2, "")
        assert ran.err.startswith(said)


def test_settings_are_read_as_for_render(vidgen: Vidgen, run_file: Callable[..., Path]) -> None:
    for flags, said in (
        (["--option", "model.dtyp=x"], "unknown key; did you mean model.dtype?"),
        (["--set", "num_frams=9"], "did you mean sampling.num_frames?"),
        (["--set", "topology.replicas=2"], "give a key of the run spec with --option topology.replicas=2"),
        (["--option", "output.uri=a"], "output.uri is given by OUTPUT and by --option"),
    ):
        ran = vidgen("submit", run_file("a fox"), "s3://b/out", *flags, "--address", NO_DASHBOARD)
        assert ran.status == 2
        assert said in ran.err


def test_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://third")
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    assert find_address(None) == "http://third"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://second/")
    assert find_address(None) == "http://second"
    assert find_address("http://first:1") == "http://first:1"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "auto")
    with pytest.raises(Refused, match="RAY_API_SERVER_ADDRESS auto: not a dashboard's address"):
        find_address(None)


def test_the_given_address_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own client would take the variable's."""
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")
    with pytest.raises(Refused, match=f"Failed to connect to Ray at address: {NO_DASHBOARD}"):
        Dashboard(NO_DASHBOARD)


def test_a_dashboard_that_never_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(Refused, match=r"the dashboard does not answer within 0\.1 s"):
            Dashboard(address, policy=JobPolicy(answer_seconds=0.1))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"ray_version": "1.13.0"}, "Ray version 1.13.0 is running on the cluster"),
        ({"ray_version": "2.9.1"}, f"the cluster has Ray 2.9.1; vidgen needs {oldest_ray()} or later there"),
    ],
)
def test_an_old_ray(answer: dict[str, str], said: str) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: Any) -> None:
            """Print nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(Refused, match=said):
            Dashboard(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()


class Flaky:
    """Ray's client of a dashboard whose connections break.

    Args:
        log: What the job has printed.
        breaks: What the first connections do after how many pieces: raise, or say nothing (None).
    """

    def __init__(self, log: list[str], breaks: list[tuple[int, Exception | None]]) -> None:
        self._log, self._breaks = log, breaks

    def get_job_info(self, job_id: str) -> Any:
        over = not self._breaks
        return SimpleNamespace(
            submission_id=job_id,
            metadata={"vidgen": "0"},
            status="FAILED" if over else "RUNNING",
            driver_exit_code=1 if over else None,
            start_time=1000,
            end_time=2000 if over else None,
            message="",
        )

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        assert job_id == "job"
        import asyncio

        pieces, error = self._breaks.pop(0) if self._breaks else (len(self._log), None)
        for piece in self._log[:pieces]:
            yield piece
        if error is not None:
            raise error
        if pieces < len(self._log):
            await asyncio.sleep(PATIENCE)


def test_a_lost_connection_is_made_anew() -> None:
    """What was shown is not shown again, and a connection that is silent is not waited for."""
    log = ["one\n", "two\nth", "ree\n", "four\n"]
    flaky = Flaky(
        log, [(1, RuntimeError("closed")), (0, ConnectionError("gone")), (2, None), (3, OSError("x"))]
    )
    shown: list[str] = []
    notes: list[str] = []
    job = Dashboard("http://h", lambda _: flaky, QUICK).follow("job", shown.append, notes.append)
    assert "".join(shown) == "".join(log)
    assert (job.exit_status, job.is_over) == (1, True)
    assert len(notes) == 2
    assert notes[0].startswith("connection lost (http://h: RuntimeError: closed); trying again for 1 s")


def test_a_connection_that_stays_lost() -> None:
    flaky = Flaky(["one\n"], [(0, ConnectionError("gone"))] * 100_000)
    with pytest.raises(LostJob, match=r"job: cannot be followed \(http://h: .*gone\); it may go on"):
        Dashboard("http://h", lambda _: flaky, QUICK).follow("job", lambda _: None, lambda _: None)


def test_progress_is_one_line_on_a_terminal() -> None:
    log = [
        "run 1\nloading the model: 0 of 9 rows\nrendering: 1 of 9 ro",
        "ws, 2.0 videos/min, 4 min 0 s left\n",
        "done",
    ]
    terminal = Console(file=io.StringIO(), force_terminal=True, width=80)
    with _LogView(terminal) as view:
        for piece in log:
            view.show(piece)
    assert isinstance(terminal.file, io.StringIO)
    written = terminal.file.getvalue()
    assert "run 1\n" in written
    # The line is erased before the next one: what stays is the text alone.
    assert "rows\n" not in written
    assert "4 min 0 s left" in written


def test_a_log_is_printed_as_it_is_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with _LogView(Console(file=io.StringIO())) as view:
        view.show("rendering: 1 of 9 rows\nhal")
        view.show("f [bold]\n")
    assert capsys.readouterr().out == "rendering: 1 of 9 rows\nhalf [bold]\n"
