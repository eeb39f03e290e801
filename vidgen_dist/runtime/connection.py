"""The Ray that a run runs on: started for it on this machine, or attached to.

Ray raises what comes, also plain `Exception` and `SystemExit`. Whatever comes where it is started or attached
to is refused with its cause; what comes of a later call is a `RayFault`, see `ray_request`.
"""

from __future__ import annotations

import contextlib
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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import vidgen_dist
from vidgen_dist.errors import Refused
from vidgen_dist.preflight.gang_choice import Capacity
from vidgen_dist.spec import TopologyOptions

OBJECT_STORE_BYTES = 128 * 2**20
"""Of a local Ray: rows and reports pass through it, never videos."""

SOCKET_BYTES = 107
"""Of the path of a Unix socket, at most."""

SESSION_BYTES = 64 * 2**20
"""Of room, at least, where a local Ray is to keep its logs."""

_LONGEST_SOCKET = "ray/session_2026-01-31_23-59-59_999999_4194304/sockets/plasma_store"
"""Where Ray puts its sockets, below its temporary folder."""

_PATHS = (
    *("TMPDIR", "RAY_TMPDIR", "HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME", "FSSPEC_CONFIG_DIR"),
    *("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CA_BUNDLE", "GOOGLE_APPLICATION_CREDENTIALS"),
    *("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HADOOP_CONF_DIR"),
)
"""Settings in the environment that are a path, and may be one from the current folder."""

_TOKEN = secrets.token_hex(32)
"""What the processes of a local Ray know each other by."""

logger = logging.getLogger(__name__)


class RayFault(Exception):
    """Ray did not do what it was asked for: names it and the reason."""


@contextmanager
def ray_request(what: str) -> Iterator[None]:
    """Within, whatever Ray raises becomes a `RayFault`.

    Args:
        what: What Ray is to do.
    """
    try:
        yield
    except Exception as error:
        raise RayFault(f"Ray could not {what}: {in_one_line(error)}") from error


@contextmanager
def before_start() -> Iterator[None]:
    """Within, a `RayFault` is refused: nothing has begun yet."""
    try:
        yield
    except RayFault as error:
        raise Refused(str(error)) from error


def in_one_line(error: BaseException) -> str:
    """What Ray says, in one line, without colours; of a long text, the cause is at the end."""
    causes = [error]
    while (cause := causes[-1].__cause__) is not None and cause not in causes:
        causes.append(cause)
    texts = [" ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(cause)).split()) for cause in causes]
    text = ": ".join(dict.fromkeys(filter(None, texts)))
    name = type(error).__name__
    return f"{name}: {text if len(text) <= 500 else f'{text[:150]} … {text[-350:]}'}" if text else name


def choose_device(topology: TopologyOptions) -> str:
    """`cpu` or `ascend`: what `auto` stands for. For a running cluster, it is asked.

    Raises:
        Refused: The cluster cannot be asked, or its address is none.
    """
    if topology.address is not None:
        _check_address(topology.address)
    if topology.device != "auto":
        return topology.device
    if topology.address is None:
        return "ascend" if glob.glob("/dev/davinci[0-9]*") else "cpu"
    with connected(topology), before_start():
        return "ascend" if any(node.npus for node in alive_nodes()) else "cpu"


@contextmanager
def connected(topology: TopologyOptions) -> Iterator[None]:
    """A connection to Ray; a Ray that was started for it is stopped with it.

    Nested uses, and a process that is connected already, share the connection that there is.

    Args:
        topology: Where.

    Raises:
        Refused: There is no cluster at the address, or none can be started here.
    """
    # Read when Ray is imported. Nothing is told to the outside, nothing is printed beside our progress.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        yield
        return
    with contextlib.ExitStack() as ends:
        try:
            folder = ends.enter_context(_neutral_folder())
            # What has begun before it failed is stopped, too.
            ends.callback(_shut_down)
            with _signals_kept(), contextlib.chdir(folder):
                _start() if topology.address is None else _attach(topology.address)
        # SystemExit: Ray sends its own process a SIGTERM when it has waited for long.
        except (Exception, SystemExit) as error:
            raise Refused(_why_not(topology.address, error)) from error
        yield


def _start() -> None:
    """A Ray of this run's own."""
    import ray

    # By default workers give way to whatever else runs, and Ray's own processes share these few cores.
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
    """Have Ray take a token of this process's, if it is given none: else it keeps one in the user's home."""
    if os.environ.keys() & {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}:
        yield
        return
    os.environ["RAY_AUTH_TOKEN"] = _TOKEN
    try:
        yield
    finally:
        del os.environ["RAY_AUTH_TOKEN"]


def _attach(address: str) -> None:
    """The cluster at an address."""
    import ray

    if address != "auto":
        _check_answers(address)
    ray.init(address=address, **_common())


def _common() -> dict[str, Any]:
    from ray.job_config import JobConfig

    # Ray puts the current folder before the workers' modules. They need it where this package is run from its
    # checkout; else a numpy.py in it would be taken for NumPy.
    checkout = str(Path(vidgen_dist.__file__).parents[1])
    implied = checkout in sys.path and not {"site-packages", "dist-packages"} & set(Path(checkout).parts)
    return {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "namespace": "vidgen",
        "job_config": JobConfig(_py_driver_sys_path=[checkout] if implied else []),
    }


def _shut_down() -> None:
    import ray

    try:
        ray.shutdown()
    except Exception as error:  # noqa: BLE001 - how the run ended is known
        logger.warning("Ray could not be shut down: %s", in_one_line(error))


@contextmanager
def _neutral_folder() -> Iterator[str]:
    """An empty folder for Ray's processes to stand in; paths in the environment are made absolute before.

    What they start by `python -m` or `python -c` finds no module there that stands in for another, and what
    they leave behind is not in the user's way.
    """
    for name in _PATHS:
        if (value := os.environ.get(name)) and not value.startswith("~"):
            os.environ[name] = os.path.abspath(value)
    if "PYTHONPATH" in os.environ:
        # An empty part is the current folder, which hardly anybody means.
        parts = filter(None, os.environ["PYTHONPATH"].split(os.pathsep))
        os.environ["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, parts))
    with tempfile.TemporaryDirectory(prefix="vidgen-", ignore_cleanup_errors=True) as folder:
        yield folder


def _ray_folder() -> str:
    """Where a local Ray keeps its session: where Ray itself would, if that fits there, and its sockets do."""
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
    """Keep signals the run's to handle, while Ray starts or connects.

    Ray sets a handler of SIGTERM that ends the process at once. SIGHUP reaches all processes of a terminal
    that hangs up: those that Ray starts inherit that it is blocked, else it would end them at once.
    """
    handler = signal.getsignal(signal.SIGTERM)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        # None: whoever set it was not Python. Only the main thread may set one, and Ray heeds that, too.
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


_ALLOWED = "allowed: HOST:PORT of the cluster's head (6379 is Ray's default), or auto on one of its hosts"


def _check_address(address: str) -> None:
    """Refuse what is no address of a cluster, by its form."""
    scheme, _, rest = address.rpartition("://")
    if scheme.lower() in ("http", "https"):
        raise Refused(
            f"topology.address: {address}: is where jobs are handed in, as jobs/submit.py does; {_ALLOWED}"
        )
    if scheme:
        raise Refused(f"topology.address: {address}: {scheme}:// is not supported; {_ALLOWED}")
    if rest == "auto":
        return
    host, colon, port = rest.rpartition(":")
    if not host or not colon or not port.isdigit() or not 0 < int(port) < 2**16:
        raise Refused(f"topology.address: {address}: is not HOST:PORT; {_ALLOWED}")


def _check_answers(address: str) -> None:
    """Refuse at once what Ray would try for minutes: where nobody listens, or a web server does."""
    host, _, port = address.rpartition(":")
    try:
        connection = socket.create_connection((host.strip("[]"), int(port)), timeout=10)
    except OSError as error:
        raise Refused(f"topology.address: {address}: no Ray cluster answers ({error})") from None
    said = b""
    # One that speaks TLS alone cuts the connection.
    with connection, contextlib.suppress(OSError):
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        said = connection.recv(5)
    if said == b"HTTP/":
        raise Refused(
            f"topology.address: {address}: a web server answers, such as Ray's dashboard; {_ALLOWED}"
        )


_VERSIONS = re.compile(r"Ray: (\S+)\s+Python: (\S+)")


def _why_not(address: str | None, error: BaseException) -> str:
    """Why there is no Ray to run on."""
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
    told = in_one_line(error)
    if isinstance(error, SystemExit):
        told = "Ray gave up (SIGTERM, which it sends to itself when it has waited for long)"
    if "InvalidAuthToken" in told or "AuthenticationError" in told:
        told = f"it asks for a token, RAY_AUTH_MODE=token and RAY_AUTH_TOKEN give it ({told})"
    return f"topology.address: {address}: no connection to the cluster: {told}"


@dataclass(frozen=True)
class Node:
    """What a node of the cluster has in all.

    Args:
        cpus: CPUs.
        npus: NPUs.
        id: Ray's id of it.
    """

    cpus: float
    npus: float
    id: str = ""


def alive_nodes() -> list[Node]:
    """The nodes of the cluster that this process is connected to, its own among them.

    Raises:
        RayFault: Ray does not say, or is gone.
    """
    import ray

    with ray_request("name the cluster's nodes"):
        alive = [(node["Resources"], node["NodeID"]) for node in ray.nodes() if node["Alive"]]
    if not alive:
        raise RayFault("Ray is gone: no node of it is alive")
    return [Node(has.get("CPU", 0.0), has.get("NPU", 0.0), node) for has, node in alive]


def capacity() -> Capacity:
    """What the cluster that this process is connected to has in all; raises as `alive_nodes`."""
    nodes = alive_nodes()
    return Capacity(int(sum(node.cpus for node in nodes)), int(sum(node.npus for node in nodes)))


def cpu_share(node_cpus: Sequence[float], ranks: int) -> float:
    """The CPUs of one rank so that all of them find room on the nodes: whole, or a fraction below 1.

    Args:
        node_cpus: CPUs of each node.
        ranks: How many share them.
    """
    for share in range(int(max(node_cpus, default=0)), 0, -1):
        if sum(int(cpus // share) for cpus in node_cpus) >= ranks:
            return share
    # Ray counts in ten-thousandths.
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
    """The cores of a node that a rank keeps to.

    Args:
        slot: Which of the node's ranks it is, from 0.
        share: As `cpu_share` gives it.
        cores: Cores of the node.
    """
    if share < 1:
        return (cores[slot % len(cores)],)
    width = int(share)
    start = slot * width % len(cores)
    return tuple(sorted({cores[(start + i) % len(cores)] for i in range(min(width, len(cores)))}))
