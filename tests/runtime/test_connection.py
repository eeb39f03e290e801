"""The connection to Ray: shares of cores, addresses, errors, and where a local Ray runs."""

from __future__ import annotations

import glob
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray
from ray._private.utils import check_version_info

from tests.waiting import PATIENCE
from vidgen_dist.errors import Refused
from vidgen_dist.runtime import connection
from vidgen_dist.runtime.connection import (
    ConnectionPolicy,
    RayFault,
    alive_nodes,
    choose_device,
    connected,
    cores_of,
    cpu_share,
)
from vidgen_dist.spec import TopologyOptions

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("nodes", "replicas", "share"),
    [
        ([2], 1, 2),
        ([2], 2, 1),
        ([2], 4, 0.5),
        ([8], 3, 2),
        ([64, 64], 2, 64),
        ([64, 64], 3, 32),
        ([10, 4], 3, 4),
        ([1], 3, 0.3333),
    ],
)
def test_all_ranks_fit_with_the_share_of_cpus(nodes: list[float], replicas: int, share: float) -> None:
    found = cpu_share(nodes, replicas)
    assert found == share
    assert sum(int(cpus / found + 1e-9) for cpus in nodes) >= replicas


def test_more_ranks_than_cpus_allow_are_refused() -> None:
    with pytest.raises(Refused, match=r"topology\.replicas: 20001 ranks .* room for 20000"):
        cpu_share([2], 20001)


def test_a_run_that_waits_for_npus_is_one_of_ascend() -> None:
    """A cluster that grows may have none yet: nobody asks it."""
    assert choose_device(TopologyOptions(address="127.0.0.1:1", npus=8)) == "ascend"
    assert choose_device(TopologyOptions(address="127.0.0.1:1", npus=8, device="cpu")) == "cpu"
    # This machine does not grow.
    assert choose_device(TopologyOptions(npus=8)) == ("ascend" if glob.glob("/dev/davinci[0-9]*") else "cpu")


def test_cores_are_divided_without_overlap() -> None:
    cores = [4, 5, 6, 7, 8, 9, 10, 11]
    taken = [cores_of(slot, 2, cores) for slot in range(4)]
    assert taken == [(4, 5), (6, 7), (8, 9), (10, 11)]


def test_replicas_share_cores_when_there_are_more_of_them() -> None:
    assert [cores_of(slot, 0.5, [0, 3]) for slot in range(4)] == [(0,), (3,), (0,), (3,)]


def test_a_share_larger_than_the_node_is_the_whole_node() -> None:
    assert cores_of(0, 8, [0, 1]) == (0, 1)


def test_an_address_where_nothing_listens_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # Other tests may have connected this process.
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.socket() as taken:
        # Bound, never listening: a connection is refused.
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        message = f"topology.address: {address}: no Ray cluster answers"
        with pytest.raises(Refused, match=message), connected(TopologyOptions(address=address)):
            raise AssertionError("connected")


@pytest.fixture
def fails_with(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Lets Ray raise this error when it starts or connects."""

    def prepare(error: BaseException) -> None:
        def fail(**_: object) -> None:
            raise error

        # Other tests may have connected this process.
        monkeypatch.setattr(ray, "is_initialized", lambda: False)
        monkeypatch.setattr(ray, "init", fail)
        monkeypatch.setattr(ray, "shutdown", lambda: None)
        monkeypatch.setattr(connection, "_check_answers", lambda _: None)

    return prepare


@pytest.mark.parametrize("address", [None, "head:6379"])
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Exception("The current node timed out during startup."), "Exception: The current node timed out"),
        (KeyError("raylet_ip_address"), "KeyError: 'raylet_ip_address'"),
        (OSError(28, "No space left on device", "/tmp/ray"), "No space left on device"),
        (SystemExit(15), "SystemExit|waited for too long"),
    ],
)
def test_whatever_ray_raises_is_refused_with_its_cause(
    fails_with: Callable[[BaseException], None],
    address: str | None,
    error: BaseException,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fails_with(error)
    monkeypatch.setattr(connection, "RAY_WAITS", 0.0)
    before = os.getcwd(), os.environ.get("RAY_AUTH_TOKEN")
    start = "topology.address: head:6379: no connection" if address else "no local Ray can be started: "
    with pytest.raises(Refused, match=f"^{start}.*({reason})"), connected(TopologyOptions(address=address)):
        raise AssertionError("connected")
    assert (os.getcwd(), os.environ.get("RAY_AUTH_TOKEN")) == before


def test_a_sigterm_while_ray_starts_is_an_interrupt(fails_with: Callable[[BaseException], None]) -> None:
    fails_with(SystemExit(15))
    with pytest.raises(KeyboardInterrupt), connected(TopologyOptions()):
        raise AssertionError("connected")


@pytest.mark.parametrize("address", [None, "head:6379"])
def test_a_ray_that_never_answers_is_refused(
    fails_with: Callable[[BaseException], None], address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails_with(AssertionError("not called"))
    answers, closed = threading.Event(), threading.Event()
    monkeypatch.setattr(ray, "init", lambda **_: answers.wait(PATIENCE))
    place = "topology.address: head:6379: the cluster" if address else "no local Ray can be started: .*"
    with (
        pytest.raises(Refused, match=f"^{place} did not answer within 0.05 s; look at "),
        connected(TopologyOptions(address=address), ConnectionPolicy(start_seconds=0.05)),
    ):
        raise AssertionError("connected")
    # What comes after all is not left behind.
    monkeypatch.setattr(ray, "shutdown", closed.set)
    answers.set()
    assert closed.wait(PATIENCE)


def test_a_sigterm_while_ray_never_answers_is_an_interrupt(
    fails_with: Callable[[BaseException], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    fails_with(AssertionError("not called"))
    over = threading.Event()

    def terminate(**_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        over.wait(PATIENCE)

    monkeypatch.setattr(ray, "init", terminate)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), connected(TopologyOptions()):
        raise AssertionError("connected")
    over.set()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_host_that_does_not_reach_itself_is_refused_at_once(
    fails_with: Callable[[BaseException], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    fails_with(AssertionError("not called"))

    def fail(*_: object, **__: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", fail)
    with (
        pytest.raises(Refused, match=r"^no local Ray .* 127\.0\.0\.1 .*unreachable\); .* ip link set lo up$"),
        connected(TopologyOptions()),
    ):
        raise AssertionError("connected")


def test_another_version_of_ray_on_the_cluster_is_named(fails_with: Callable[[BaseException], None]) -> None:
    with pytest.raises(RuntimeError) as raised:
        check_version_info({"ray_version": "2.9.3", "python_version": "3.10.1"}, "node 10.0.0.1")
    fails_with(raised.value)
    here = rf"Ray {ray.__version__} and Python {sys.version.split()[0]}"
    with (
        pytest.raises(Refused, match=rf"the cluster has Ray 2\.9\.3 and Python 3\.10\.1, here are {here}"),
        connected(TopologyOptions(address="head:6379")),
    ):
        raise AssertionError("connected")


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("http://head:8265", "is the address of a dashboard, .*; allowed: HOST:PORT"),
        ("https://head", "is the address of a dashboard"),
        ("ray://head:10001", "ray:// is not supported; allowed: HOST:PORT"),
        ("head", "is not HOST:PORT; allowed"),
        (":6379", "is not HOST:PORT; allowed"),
        ("head:port", "is not HOST:PORT; allowed"),
        ("head:99999", "is not HOST:PORT; allowed"),
    ],
)
def test_a_wrong_address_is_refused(address: str, reason: str) -> None:
    with pytest.raises(Refused, match=f"^topology.address: {address}: {reason}"):
        choose_device(TopologyOptions(address=address, device="cpu"))


def test_the_port_of_the_dashboard_is_refused() -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with pytest.raises(Refused, match="a web server answers, such as Ray's dashboard; allowed"):
            connection._check_answers(f"127.0.0.1:{server.server_port}")
        thread.join()


def test_a_ray_that_is_gone_is_a_ray_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": False, "Resources": {}, "NodeID": "a"}])
    with pytest.raises(RayFault, match="no node of it is alive"):
        alive_nodes()

    def fail() -> None:
        raise Exception("The GCS did not answer.") from TimeoutError("60 s")

    monkeypatch.setattr(ray, "nodes", fail)
    with pytest.raises(
        RayFault, match=r"^Ray could not list the cluster's nodes: Exception: The GCS .*: 60 s"
    ):
        alive_nodes()


def test_a_local_ray_chooses_a_folder_where_socket_paths_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("x" * 130)
    deep.mkdir()
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    for folder, expected in (("/var/tmp", "/var/tmp/ray"), (str(deep), "/tmp/ray"), ("/no/such", "/tmp/ray")):
        monkeypatch.setenv("TMPDIR", folder)
        assert connection._ray_folder() == expected
    monkeypatch.setenv("RAY_TMPDIR", str(deep))
    with pytest.raises(Refused, match=r"^RAY_TMPDIR: .*xxx' cannot hold .* a path of at most 39 bytes"):
        connection._ray_folder()


def test_a_local_ray_needs_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/dev")
    monkeypatch.setattr(
        connection.shutil, "disk_usage", lambda folder: SimpleNamespace(free=(folder != "/dev") * 2**40)
    )
    assert connection._ray_folder() == "/tmp/ray"
    monkeypatch.setattr(connection.shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))
    with pytest.raises(Refused, match=r"^TMPDIR: '/dev' cannot hold Ray's session; .* with 64 MiB of room"):
        connection._ray_folder()


def test_a_run_from_an_unfriendly_folder_succeeds(make_manifest: Callable[..., str], tmp_path: Path) -> None:
    """Modules in the current folder that shadow others, no home, a temporary folder with a long path."""
    here, deep = tmp_path / "here", tmp_path / ("x" * 130)
    here.mkdir()
    deep.mkdir()
    for name in ("numpy", "mindspore", "ray", "random", "types"):
        (here / f"{name}.py").write_text("raise ImportError('taken for another')\n")
    make_manifest("one", "two", name="here/m.parquet")
    unfriendly: dict[str, Any] = {"TMPDIR": str(deep), "HOME": "/proc/no-home", "PYTHONPATH": str(ROOT)}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")} | unfriendly
    vidgen = [sys.executable, str(ROOT / "tests" / "vidgen_with_fake_engine.py")]
    flags = ["--model", "fake", "--device", "cpu", "--replicas", "1", "--format", "npy"]
    for command in ([*vidgen, "render", "m.parquet", "out", *flags], [sys.executable, *_VERSION]):
        ran = subprocess.run(
            command, cwd=here, env=environment, capture_output=True, text=True, check=False, timeout=120
        )
        assert ran.returncode == 0, ran.stderr
        # Python's `-m` imports this module.
        (here / "types.py").unlink(missing_ok=True)
    assert pq.read_table(here / "out" / "ledger")["status"].to_pylist() == ["done", "done"]


_VERSION = ("-m", "vidgen_dist", "--version")
