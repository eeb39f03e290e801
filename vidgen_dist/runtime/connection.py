"""A run's connection to Ray: it starts a local Ray, or attaches to a cluster.

Ray raises many classes of errors, even plain `Exception` and `SystemExit`. Any error when a Ray starts, or
while attaching to one, becomes `Refused` with its cause, and so does a Ray that does not answer in time; an
error of a later call becomes a `RayFault`, see `ray_request`.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from vidgen_dist.errors import Refused
from vidgen_dist.package import checkout
from vidgen_dist.preflight.gang_choice import Capacity
from vidgen_dist.spec import TopologyOptions

OBJECT_STORE_BYTES = 128 * 2**20
"""The object store of a local Ray: it holds rows and reports, never videos."""

SOCKET_BYTES = 107
"""The longest path of a Unix socket."""

SESSION_BYTES = 64 * 2**20
"""The least room where a local Ray keeps its logs."""

STARTS_WITHIN = 6.0
"""Seconds that an interrupt waits for a Ray that is starting: until then it cannot be shut down in order."""

RAY_WAITS = 15.0
"""Seconds that Ray waits at least before it sends itself a SIGTERM: an earlier one is from outside."""

_LONGEST_SOCKET = "ray/session_2026-01-31_23-59-59_999999_4194304/sockets/plasma_store"
"""Ray's longest socket path below its temporary folder."""

_PATHS = (
    *("TMPDIR", "RAY_TMPDIR", "HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME", "FSSPEC_CONFIG_DIR"),
    *("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CA_BUNDLE", "GOOGLE_APPLICATION_CREDENTIALS"),
    *("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HADOOP_CONF_DIR"),
)
"""Environment variables with paths, which may be relative to the current folder."""

_TOKEN = secrets.token_hex(32)
"""The authentication token of a local Ray's processes."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ConnectionPolicy:
    """How long a run waits for Ray.

    Args:
        start_seconds: Until a local Ray has started, or a cluster has answered. A Ray starts in 5 s on an
            idle host and in a minute on a crowded one; without a limit it would try for more than ten.
        loopback_seconds: Until this host answers itself.
    """

    start_seconds: float = 120.0
    loopback_seconds: float = 10.0


class RayFault(Exception):
    """Ray could not do what was requested: names the request and the reason."""


@contextmanager
def ray_request(what: str) -> Iterator[None]:
    """Turn any error that Ray raises in the block into a `RayFault`.

    Args:
        what: What Ray is asked to do, after "could not".
    """
    try:
        yield
    except Exception as error:
        raise RayFault(f"Ray could not {what}: {in_one_line(error)}") from error


@contextmanager
def refuse_ray_faults() -> Iterator[None]:
    """Turn a `RayFault` in the block into `Refused`: the run has not begun yet."""
    try:
        yield
    except RayFault as error:
        raise Refused(str(error)) from error


def in_one_line(error: BaseException) -> str:
    """Ray's message in one line, without colours; a long text is shortened, but keeps its end, the cause."""
    causes = [error]
    while (cause := causes[-1].__cause__) is not None and cause not in causes:
        causes.append(cause)
    texts = [" ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(cause)).split()) for cause in causes]
    text = ": ".join(dict.fromkeys(filter(None, texts)))
    name = type(error).__name__
    return f"{name}: {text if len(text) <= 500 else f'{text[:150]} … {text[-350:]}'}" if text else name


def choose_device(topology: TopologyOptions, policy: ConnectionPolicy = ConnectionPolicy()) -> str:
    """The device of a run, `cpu` or `ascend`; `auto` is resolved, on a running cluster by its resources.

    A cluster that grows may have no NPU yet: there, `npus` says that the run waits for some.

    Args:
        topology: Names the device, and the cluster if there is one.
        policy: How long to wait for the cluster.

    Raises:
        Refused: The cluster does not answer, or its address is wrong.
    """
    if topology.address is not None:
        _check_address(topology.address)
    if topology.device != "auto":
        return topology.device
    if topology.address is None:
        return "ascend" if glob.glob("/dev/davinci[0-9]*") else "cpu"
    if topology.npus is not None:
        return "ascend"
    with connected(topology, policy), refuse_ray_faults():
        return "ascend" if any(node.npus for node in alive_nodes()) else "cpu"


@contextmanager
def connected(topology: TopologyOptions, policy: ConnectionPolicy = ConnectionPolicy()) -> Iterator[None]:
    """Connect to Ray for the block; a Ray that was started for it is stopped afterwards.

    Nested blocks, and a process that is connected already, share the existing connection.

    Args:
        topology: Has the address of the cluster, if there is one.
        policy: How long to wait for Ray.

    Raises:
        Refused: There is no cluster at the address, or none can be started here, or it does not answer.
        KeyboardInterrupt: A SIGTERM came while Ray started.
    """
    # Read when Ray is imported: it reports no usage, and prints nothing beside our progress.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        yield
        return
    began = time.monotonic()
    with contextlib.ExitStack() as ends:
        try:
            folder = ends.enter_context(_neutral_folder())
            with _signals_kept(), contextlib.chdir(folder):
                address = topology.address
                if address is None:
                    _check_loopback(policy.loopback_seconds)
                connect = _start if address is None else functools.partial(_attach, address)
                connection = ends.enter_context(_in_a_thread(connect))
                # Parts of Ray that started before an error are stopped, too.
                ends.callback(_shut_down)
                _await(connection, address, policy.start_seconds)
        # SystemExit: Ray sends its own process a SIGTERM when it has waited for too long.
        except (Exception, SystemExit) as error:
            if isinstance(error, SystemExit) and time.monotonic() - began < RAY_WAITS:
                raise KeyboardInterrupt from error
            raise Refused(_describe_refusal(topology.address, error)) from error
        yield


@contextmanager
def _in_a_thread(connect: Callable[[], None]) -> Iterator[Future[None]]:
    """Call a function that connects to Ray in a thread that lasts as long as the block.

    Ray's own waits have no limit and cannot be interrupted, and the processes that it starts end with the
    thread that has started them.
    """
    connection: Future[None] = Future()
    over = threading.Event()

    def run() -> None:
        try:
            connect()
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            connection.set_exception(error)
        else:
            connection.set_result(None)
            over.wait()

    threading.Thread(target=run, name="ray", daemon=True).start()
    try:
        yield connection
    finally:
        over.set()


def _await(connection: Future[None], address: str | None, seconds: float) -> None:
    """Wait for a connection to Ray; one that comes too late is closed when it comes.

    Raises:
        Refused: It does not come in time.
        KeyboardInterrupt: A signal came meanwhile.
        BaseException: What Ray raised.
    """
    began = time.monotonic()
    try:
        wait([connection], seconds)
    except (KeyboardInterrupt, SystemExit) as error:
        if isinstance(error, SystemExit) and time.monotonic() - began > RAY_WAITS:
            raise
        wait([connection], STARTS_WITHIN)
        raise KeyboardInterrupt from error
    finally:
        if not connection.done():
            connection.add_done_callback(lambda _: _shut_down())
    if not connection.done():
        raise Refused(_describe_silence(address, seconds))
    connection.result()


def _start() -> None:
    """Start a Ray for this run alone."""
    import ray

    # By default workers have a low priority, and Ray's own processes share the same few cores.
    os.environ.setdefault("RAY_worker_niceness", "0")
    with _own_token():
        ray.init(
            address="local",
            num_cpus=max(len(os.sched_getaffinity(0)), 1),
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            _node_ip_address="127.0.0.1",
            _temp_dir=_ray_folder(),
            **_common(),
        )


@contextmanager
def _own_token() -> Iterator[None]:
    """Give Ray this process's token if it has none: otherwise it stores one in the user's home."""
    if os.environ.keys() & {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}:
        yield
        return
    os.environ["RAY_AUTH_TOKEN"] = _TOKEN
    try:
        yield
    finally:
        del os.environ["RAY_AUTH_TOKEN"]


def _attach(address: str) -> None:
    """Connect to the cluster at an address."""
    import ray

    if address != "auto":
        _check_answers(address)
    ray.init(address=address, **_common())


def _common() -> dict[str, Any]:
    from ray.job_config import JobConfig

    # Ray puts the current folder before the workers' modules. They need it only if this package is run from
    # its checkout; otherwise a numpy.py in it would be taken for NumPy.
    folder = checkout()
    return {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "namespace": "vidgen",
        "job_config": JobConfig(_py_driver_sys_path=[folder] if folder in sys.path else []),
    }


def _shut_down() -> None:
    import ray

    try:
        ray.shutdown()
    except Exception as error:  # noqa: BLE001 - the result of the run is known by now
        logger.warning("Ray could not be shut down: %s", in_one_line(error))


@contextmanager
def _neutral_folder() -> Iterator[str]:
    """An empty working folder for Ray's processes; paths in the environment are made absolute first.

    Processes that they start by `python -m` or `python -c` find no module there that shadows another, and
    files that they leave behind do not disturb the user.
    """
    for name in _PATHS:
        if (value := os.environ.get(name)) and not value.startswith("~"):
            os.environ[name] = os.path.abspath(value)
    if "PYTHONPATH" in os.environ:
        # An empty part means the current folder, which is hardly ever intended.
        parts = filter(None, os.environ["PYTHONPATH"].split(os.pathsep))
        os.environ["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, parts))
    with tempfile.TemporaryDirectory(prefix="vidgen-", ignore_cleanup_errors=True) as folder:
        yield folder


def _ray_folder() -> str:
    """The folder of a local Ray's session: Ray's own choice, if it has room and socket paths fit."""
    chosen = os.environ.get("RAY_TMPDIR")
    longest = SOCKET_BYTES - len(f"/{_LONGEST_SOCKET}")
    for folder in (chosen,) if chosen else (os.environ.get("TMPDIR"), "/tmp", "/var/tmp"):
        if folder and len(os.fsencode(folder)) <= longest and _has_room(folder):
            return os.path.join(folder, "ray")
    name = "RAY_TMPDIR" if chosen else "TMPDIR"
    raise Refused(
        f"{name}: {os.environ.get(name, '/tmp')!r} cannot hold Ray's session; in RAY_TMPDIR allowed: a "
        f"folder to write to, with {SESSION_BYTES >> 20} MiB of room and a path of at most {longest} bytes"
    )


def _has_room(folder: str) -> bool:
    return os.access(folder, os.W_OK | os.X_OK) and shutil.disk_usage(folder).free >= SESSION_BYTES


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Keep the run's signal handlers while Ray starts or connects.

    Meanwhile a SIGTERM raises SystemExit, for Ray sends one to its own process when it gives up. SIGHUP goes
    to all processes of a terminal that hangs up: the processes that Ray starts inherit a mask that blocks it,
    otherwise it would end them.
    """
    handler = signal.getsignal(signal.SIGTERM)
    # None means that the handler is not Python's. Only the main thread may set one.
    sets = handler is not None and threading.current_thread() is threading.main_thread()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        if sets:
            signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        if sets:
            signal.signal(signal.SIGTERM, handler)


_ALLOWED = "allowed: HOST:PORT of the cluster's head (6379 is Ray's default), or auto on one of its hosts"


def _check_address(address: str) -> None:
    """Refuse an address that does not have the form of a cluster's address."""
    scheme, _, rest = address.rpartition("://")
    if scheme.lower() in ("http", "https"):
        raise Refused(
            f"topology.address: {address}: is the address of a dashboard, which `vidgen submit` takes; "
            f"{_ALLOWED}"
        )
    if scheme:
        raise Refused(f"topology.address: {address}: {scheme}:// is not supported; {_ALLOWED}")
    if rest == "auto":
        return
    host, colon, port = rest.rpartition(":")
    if not host or not colon or not port.isdigit() or not 0 < int(port) < 2**16:
        raise Refused(f"topology.address: {address}: is not HOST:PORT; {_ALLOWED}")


def _check_answers(address: str) -> None:
    """Refuse at once an address that Ray would try for minutes: nothing listens there, or a web server."""
    host, _, port = address.rpartition(":")
    try:
        connection = socket.create_connection((host.strip("[]"), int(port)), timeout=10)
    except OSError as error:
        raise Refused(f"topology.address: {address}: no Ray cluster answers ({error})") from None
    answer = b""
    # A server that accepts only TLS closes the connection.
    with connection, contextlib.suppress(OSError):
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answer = connection.recv(5)
    if answer == b"HTTP/":
        raise Refused(
            f"topology.address: {address}: a web server answers, such as Ray's dashboard; {_ALLOWED}"
        )


def _check_loopback(seconds: float) -> None:
    """Refuse a host that does not reach itself: Ray's processes would wait for each other."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=seconds).close()
    except OSError as error:
        raise Refused(
            f"no local Ray can be started: this host does not reach itself at 127.0.0.1 ({error}); "
            "bring its loopback interface up: ip link set lo up"
        ) from None


def _describe_silence(address: str | None, seconds: float) -> str:
    """That Ray did not answer in time, and where to look."""
    if address is not None:
        return (
            f"topology.address: {address}: the cluster did not answer within {seconds:g} s; look at "
            "`ray status` on its head, and whether a firewall lets this host reach the ports of Ray's nodes"
        )
    logs = os.path.join(_ray_folder(), "session_latest", "logs")
    return (
        f"no local Ray can be started: its processes did not answer within {seconds:g} s; look at "
        f"gcs_server.out and raylet.out in {logs}, and whether the host has free memory and processors"
    )


_VERSIONS = re.compile(r"Ray: (\S+)\s+Python: (\S+)")


def _describe_refusal(address: str | None, error: BaseException) -> str:
    """Why no Ray can be used."""
    if isinstance(error, Refused):
        return str(error)
    if address is None:
        return f"no local Ray can be started: {in_one_line(error)}"
    if len(versions := _VERSIONS.findall(str(error))) == 2:
        (theirs, their_python), (ours, our_python) = versions
        return (
            f"topology.address: {address}: the cluster has Ray {theirs} and Python {their_python}, here are "
            f"Ray {ours} and Python {our_python}; they must be the same"
        )
    reason = in_one_line(error)
    if isinstance(error, SystemExit):
        reason = "Ray gave up (SIGTERM, which it sends to itself when it has waited for too long)"
    if "InvalidAuthToken" in reason or "AuthenticationError" in reason:
        reason = f"it requires a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN ({reason})"
    return f"topology.address: {address}: no connection to the cluster: {reason}"


@dataclass(frozen=True)
class Node:
    """The resources of a node of the cluster, whether free or not.

    Args:
        cpus: CPUs.
        npus: NPUs.
        id: Ray's id of the node.
    """

    cpus: float
    npus: float
    id: str = ""


def alive_nodes() -> list[Node]:
    """The nodes of the cluster that this process is connected to, including its own.

    Raises:
        RayFault: Ray does not answer, or is gone.
    """
    import ray

    with ray_request("list the cluster's nodes"):
        alive = [(node["Resources"], node["NodeID"]) for node in ray.nodes() if node["Alive"]]
    if not alive:
        raise RayFault("Ray is gone: no node of it is alive")
    return [Node(has.get("CPU", 0.0), has.get("NPU", 0.0), node) for has, node in alive]


def capacity() -> Capacity:
    """The resources of the cluster that this process is connected to; raises as `alive_nodes`."""
    nodes = alive_nodes()
    return Capacity(int(sum(node.cpus for node in nodes)), int(sum(node.npus for node in nodes)))


def cpu_share(node_cpus: Sequence[float], ranks: int) -> float:
    """The CPUs of one rank with which all ranks fit on the nodes: a whole number, or a fraction below 1.

    Args:
        node_cpus: CPUs of each node.
        ranks: Number of ranks.
    """
    for share in range(int(max(node_cpus, default=0)), 0, -1):
        if sum(int(cpus // share) for cpus in node_cpus) >= ranks:
            return share
    # Ray counts in units of 1/10,000.
    parts = 2
    while sum(int(cpus * parts) for cpus in node_cpus) < ranks:
        parts += 1
        if parts > 10_000:
            raise Refused(
                f"topology.replicas: {ranks} ranks in all are not allowed; {sum(node_cpus):g} CPUs have "
                f"room for {sum(int(cpus * 10_000) for cpus in node_cpus)}"
            )
    return int(10_000 / parts) / 10_000


def cores_of(slot: int, share: float, cores: Sequence[int]) -> tuple[int, ...]:
    """The cores of a node that a rank is pinned to.

    Args:
        slot: The rank's number on the node, from 0.
        share: See `cpu_share`.
        cores: Cores of the node.
    """
    if share < 1:
        return (cores[slot % len(cores)],)
    width = int(share)
    start = slot * width % len(cores)
    return tuple(sorted({cores[(start + i) % len(cores)] for i in range(min(width, len(cores)))}))
