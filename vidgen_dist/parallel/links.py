"""Byte links between the ranks of a gang: one TCP connection per pair, one thread per direction.

Between processes of one host this moves gigabytes a second; MindSpore's own point-to-point exchange on CPU
moves a sixth of a gigabyte. When a peer ends, its connection ends, which is noticed at once.

The messages of a pair arrive in the order in which they were sent, and both sides post them in the same
order; a number in front of each message shows when they do not.

The buffer sizes of the connections are left to the kernel: asking for a size caps it (net.core.rmem_max) and
stops the kernel from tuning it.
"""

from __future__ import annotations

import contextlib
import hmac
import queue
import secrets
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from vidgen_dist.parallel.collectives import PeerLost

TIMEOUT = 16200.0
"""Seconds after which a peer that neither sends nor closes its connection counts as lost. The supervisor of a
gang knows its stages; its limits, by default at most four hours, should be the shorter ones."""

_HELLO = struct.Struct("!16sI")
_WELCOME = b"\x01"
_HEADER = struct.Struct("!QQ")

Message = tuple[int, memoryview]
"""The peer's rank, and the bytes to send to it or the memory for the bytes that it sends."""


class Listener:
    """Accepts connections from other ranks, at a free port that it takes before anyone learns of it.

    Args:
        host: IP address of this host, as the other ranks reach it.
    """

    def __init__(self, host: str) -> None:
        self._socket = socket.create_server((host, 0), family=_family(host), backlog=64)
        self._secret = secrets.token_bytes(16)
        port = self._socket.getsockname()[1]
        self.address = f"{host}|{port}|{self._secret.hex()}"
        """What other ranks need to connect; it includes a secret."""

    def connect(self, addresses: Sequence[str], rank: int, timeout: float) -> Links:
        """Connect to every other rank; all ranks do this at about the same time.

        Args:
            addresses: The addresses of all ranks' listeners.
            rank: This process's rank.
            timeout: Seconds within which every rank must connect.

        Raises:
            PeerLost: A rank did not connect, or closed its connection; the message names it.
        """
        until = time.monotonic() + timeout
        peers: dict[int, socket.socket] = {}
        awaited: set[int] = set()
        try:
            for peer in range(rank):
                awaited = {peer}
                peers[peer] = _dial(addresses[peer], rank, until)
            awaited = set(range(rank + 1, len(addresses)))
            self._accept_ranks(awaited, peers, until)
        except BaseException as error:
            for connection in peers.values():
                connection.close()
            if isinstance(error, OSError):
                missing = ", ".join(map(str, sorted(awaited)))
                raise PeerLost(f"rank {rank}: no connection to rank {missing} ({error})") from error
            raise
        finally:
            self.close()
        return Links(rank, peers)

    def close(self) -> None:
        """Accept no more connections."""
        self._socket.close()

    def _accept_ranks(self, awaited: set[int], peers: dict[int, socket.socket], until: float) -> None:
        """Move ranks from `awaited` to `peers` as they connect.

        All connections are polled together, so one that sends nothing delays no other.
        """
        self._socket.setblocking(False)
        strangers: set[socket.socket] = set()
        with selectors.DefaultSelector() as heard:
            heard.register(self._socket, selectors.EVENT_READ)
            try:
                while awaited:
                    for key, _ in heard.select(_left(until)):
                        if key.fileobj is self._socket:
                            for connection in _newcomers(self._socket):
                                strangers.add(connection)
                                heard.register(connection, selectors.EVENT_READ, connection)
                            continue
                        connection = key.data
                        heard.unregister(connection)
                        strangers.remove(connection)
                        peer = self._rank_of(connection)
                        if peer not in awaited:
                            connection.close()
                            continue
                        awaited.remove(peer)
                        peers[peer] = connection
                        connection.setblocking(True)
                        connection.sendall(_WELCOME)
            finally:
                for connection in strangers:
                    connection.close()

    def _rank_of(self, connection: socket.socket) -> int | None:
        """The rank that sent a hello with the right secret; None for anything else."""
        try:
            # So few bytes arrive in one piece.
            hello = connection.recv(_HELLO.size)
        except OSError:
            return None
        if len(hello) != _HELLO.size:
            return None
        secret, rank = _HELLO.unpack(hello)
        return rank if hmac.compare_digest(secret, self._secret) else None


class Links:
    """The connections of one rank to the others.

    Args:
        rank: This process's rank.
        peers: Rank -> connected socket.
        timeout: Seconds that `Transfer.wait` waits at most.
    """

    def __init__(self, rank: int, peers: Mapping[int, socket.socket], timeout: float = TIMEOUT) -> None:
        self.rank = rank
        self._timeout = timeout
        self._peers = {peer: _Peer(rank, peer, connection) for peer, connection in peers.items()}

    def exchange(self, sends: Sequence[Message], receives: Sequence[Message]) -> Transfer:
        """Begin to send and to receive; both continue while the caller computes.

        Args:
            sends: Bytes that must not change until the transfer has ended.
            receives: Where arriving bytes are written. Each must be as long as the peer's message.
        """
        moves = [(peer, self._peers[peer].send(data)) for peer, data in sends]
        moves += [(peer, self._peers[peer].receive(data)) for peer, data in receives]
        return Transfer(tuple(moves), self._timeout)

    def close(self) -> None:
        """Close all connections; transfers under way fail on both sides."""
        for peer in self._peers.values():
            peer.close()


@dataclass(frozen=True)
class Transfer:
    """Sends and receives under way.

    Args:
        moves: Each with its peer's rank.
        timeout: Seconds that `wait` waits at most.
    """

    moves: tuple[tuple[int, Future], ...]
    timeout: float

    def wait(self) -> None:
        """Return when all have ended.

        Raises:
            PeerLost: A peer has ended, does not answer, or sends something unexpected.
        """
        until = time.monotonic() + self.timeout
        for peer, future in self.moves:
            try:
                future.result(timeout=max(0.0, until - time.monotonic()))
            except TimeoutError:
                raise PeerLost(f"rank {peer} has not answered for {self.timeout:g} s") from None


Move = Callable[[int, memoryview], None]
"""Sends or receives the message of that number."""


class _Peer:
    """One connection, with one thread that sends and one that receives."""

    def __init__(self, rank: int, peer: int, connection: socket.socket) -> None:
        self._name = f"rank {peer}, as rank {rank} sees it"
        self._connection = connection
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._closing = threading.Lock()
        self._closed = False
        self._out = _Lane(f"link-out-{peer}", self._guarded(self._send))
        self._in = _Lane(f"link-in-{peer}", self._guarded(self._receive))

    def send(self, data: memoryview) -> Future:
        return self._post(self._out, data)

    def receive(self, data: memoryview) -> Future:
        return self._post(self._in, data)

    def close(self) -> None:
        with self._closing:
            if self._closed:
                return
            self._closed = True
        # Wakes a lane that is blocked in the socket.
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._out.end()
        self._in.end()
        self._connection.close()

    def _post(self, lane: _Lane, data: memoryview) -> Future:
        with self._closing:
            if not self._closed:
                return lane.post(data)
        future: Future = Future()
        future.set_exception(PeerLost(f"{self._name}: the connection was closed here"))
        return future

    def _guarded(self, move: Move) -> Move:
        def guarded(number: int, data: memoryview) -> None:
            try:
                move(number, data)
            except OSError as error:
                raise PeerLost(f"{self._name}: {error}") from error

        return guarded

    def _send(self, number: int, data: memoryview) -> None:
        # One call for both, so the receiver wakes once.
        header = _HEADER.pack(number, data.nbytes)
        sent = self._connection.sendmsg([header, data])
        self._connection.sendall(header[sent:])
        self._connection.sendall(data[max(0, sent - len(header)) :])

    def _receive(self, number: int, data: memoryview) -> None:
        header = bytearray(_HEADER.size)
        _fill(self._connection, memoryview(header))
        told, length = _HEADER.unpack(header)
        if (told, length) != (number, data.nbytes):
            raise PeerLost(
                f"{self._name}: sent message {told} of {length} bytes instead of message {number} of "
                f"{data.nbytes}: the ranks are at different points of the program"
            )
        _fill(self._connection, data)


class _Lane:
    """A thread that transfers messages in the order in which they are posted."""

    def __init__(self, name: str, move: Move) -> None:
        self._move = move
        self._jobs: queue.SimpleQueue[tuple[memoryview, Future] | None] = queue.SimpleQueue()
        self._number = 0
        self._fault: PeerLost | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def post(self, data: memoryview) -> Future:
        future: Future = Future()
        self._jobs.put((data, future))
        return future

    def end(self) -> None:
        """Return when everything posted has been transferred or has failed."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while self._next():
            pass

    def _next(self) -> bool:
        # A function of its own: while the thread waits for a job, it keeps no memory of the last one alive.
        job = self._jobs.get()
        if job is None:
            return False
        data, future = job
        if self._fault is None:
            try:
                self._move(self._number, data)
            except PeerLost as error:
                self._fault = error
        self._number += 1
        if self._fault is None:
            future.set_result(None)
        else:
            # A broken connection stays broken: everything posted later fails as well.
            future.set_exception(self._fault)
        return True


def _dial(address: str, rank: int, until: float) -> socket.socket:
    """Connect, and return when the other side has accepted this rank."""
    host, port, secret = address.split("|")
    connection = socket.create_connection((host, int(port)), timeout=_left(until))
    try:
        connection.sendall(_HELLO.pack(bytes.fromhex(secret), rank))
        connection.settimeout(_left(until))
        _fill(connection, memoryview(bytearray(len(_WELCOME))))
    except BaseException:
        connection.close()
        raise
    return connection


def _newcomers(listening: socket.socket) -> list[socket.socket]:
    """The connections that have arrived at a non-blocking socket."""
    found = []
    with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
        while True:
            connection, _ = listening.accept()
            connection.setblocking(False)
            found.append(connection)
    return found


def _fill(connection: socket.socket, data: memoryview) -> None:
    while data.nbytes:
        # With MSG_WAITALL the thread needs the interpreter once, not for every packet.
        count = connection.recv_into(data, 0, socket.MSG_WAITALL)
        if not count:
            raise ConnectionError("the connection has ended")
        data = data[count:]


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError("the time is up")
    return left


def _family(host: str) -> socket.AddressFamily:
    return socket.getaddrinfo(host, None)[0][0]
