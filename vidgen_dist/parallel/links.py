"""Byte links between the ranks of a gang: one TCP connection a pair, a thread for each direction of it.

Between processes of one host this moves gigabytes a second, where MindSpore's own point-to-point
exchange on CPU moves a sixth of one; and the end of a peer is seen at once, as the end of its connection.

Messages of a pair arrive in the order in which they were sent, and both sides post them in the same order:
a number in front of each shows when they do not.
"""

from __future__ import annotations

import contextlib
import hmac
import queue
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from vidgen_dist.parallel.collectives import PeerLost

TIMEOUT = 3600.0
"""Seconds after which a peer that neither sends nor ends its connection is given up. Whoever supervises a
gang knows its stages and is quicker."""

_HELLO = struct.Struct("!16sI")
_HEADER = struct.Struct("!QQ")

Message = tuple[int, memoryview]
"""The peer's rank, and the bytes that go to it or where those that come from it are put."""


class Listener:
    """A place where other ranks can connect: a free port, taken before anybody is told of it.

    Args:
        host: IP address of this host, as the other ranks reach it.
    """

    def __init__(self, host: str) -> None:
        self._socket = socket.create_server((host, 0), family=_family(host), backlog=64)
        self._secret = secrets.token_bytes(16)
        port = self._socket.getsockname()[1]
        self.address = f"{host}|{port}|{self._secret.hex()}"
        """What other ranks need to connect; it has a secret in it."""

    def connect(self, addresses: Sequence[str], rank: int, timeout: float) -> Links:
        """Connect to every other rank; all ranks do this at about the same time.

        Args:
            addresses: Of all ranks' listeners.
            rank: This rank's number.
            timeout: Seconds until every rank must have come.

        Raises:
            PeerLost: A rank did not come, or ended its connection.
        """
        until = time.monotonic() + timeout
        peers: dict[int, socket.socket] = {}
        try:
            for peer in range(rank):
                peers[peer] = _dial(addresses[peer], rank, until)
            while len(peers) < len(addresses) - 1:
                peer, connection = self._accept(until)
                if not rank < peer < len(addresses) or peer in peers:
                    connection.close()
                    continue
                peers[peer] = connection
        except BaseException as error:
            for connection in peers.values():
                connection.close()
            if isinstance(error, OSError):
                missing = sorted(set(range(len(addresses))) - {rank} - set(peers))
                raise PeerLost(
                    f"rank {rank}: no connection to rank {', '.join(map(str, missing))} ({error})"
                ) from error
            raise
        finally:
            self.close()
        return Links(rank, peers)

    def close(self) -> None:
        """Let nobody connect any more."""
        self._socket.close()

    def _accept(self, until: float) -> tuple[int, socket.socket]:
        while True:
            self._socket.settimeout(_left(until))
            connection, _ = self._socket.accept()
            try:
                connection.settimeout(min(10.0, _left(until)))
                hello = bytearray(_HELLO.size)
                _receive(connection, memoryview(hello))
                secret, peer = _HELLO.unpack(hello)
            except OSError:
                # Not one of ours, or one that died: it is missed when the time is up.
                connection.close()
                continue
            if hmac.compare_digest(secret, self._secret):
                return peer, connection
            connection.close()


class Links:
    """Connections of one rank to the others.

    Args:
        rank: This rank's number.
        peers: Rank -> connected socket.
        timeout: Seconds that `Exchange.wait` waits at most.
    """

    def __init__(self, rank: int, peers: Mapping[int, socket.socket], timeout: float = TIMEOUT) -> None:
        self.rank = rank
        self._timeout = timeout
        self._peers = {peer: _Peer(rank, peer, connection) for peer, connection in peers.items()}

    def exchange(self, sends: Sequence[Message], receives: Sequence[Message]) -> Exchange:
        """Begin to send and to receive; both go on while the caller computes.

        Args:
            sends: Bytes that must stay as they are until the exchange has ended.
            receives: Where arriving bytes are put. Each must be as long as what its peer sends.
        """
        futures = [self._peers[peer].send(data) for peer, data in sends]
        futures += [self._peers[peer].receive(data) for peer, data in receives]
        return Exchange(tuple(futures), self._timeout)

    def close(self) -> None:
        """End all connections; what is under way fails, here and there."""
        for peer in self._peers.values():
            peer.close()


@dataclass(frozen=True)
class Exchange:
    """Sends and receives that are under way."""

    futures: tuple[Future, ...]
    timeout: float

    def wait(self) -> None:
        """Return when all have ended.

        Raises:
            PeerLost: A peer is gone, silent, or sends what was not expected.
        """
        until = time.monotonic() + self.timeout
        for future in self.futures:
            try:
                future.result(timeout=max(0.0, until - time.monotonic()))
            except TimeoutError:
                raise PeerLost(f"a rank has not answered for {self.timeout:g} s") from None


class _Peer:
    """One connection, with a thread for what goes out and one for what comes in."""

    def __init__(self, rank: int, peer: int, connection: socket.socket) -> None:
        self._name = f"rank {peer}, as rank {rank} sees it"
        self._connection = connection
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._out: queue.SimpleQueue[tuple[memoryview, Future] | None] = queue.SimpleQueue()
        self._in: queue.SimpleQueue[tuple[memoryview, Future] | None] = queue.SimpleQueue()
        for name, jobs, move in (("out", self._out, self._send), ("in", self._in, self._receive)):
            threading.Thread(
                target=self._run, args=(jobs, move), name=f"link-{name}-{peer}", daemon=True
            ).start()

    def send(self, data: memoryview) -> Future:
        return _put(self._out, data)

    def receive(self, data: memoryview) -> Future:
        return _put(self._in, data)

    def close(self) -> None:
        # A thread that waits in the socket is woken by the shutdown, one that waits in the queue by None.
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._out.put(None)
        self._in.put(None)

    def _run(self, jobs: queue.SimpleQueue, move: Callable[[int, memoryview], None]) -> None:
        fault: PeerLost | None = None
        number = 0
        while (job := jobs.get()) is not None:
            data, future = job
            if fault is None:
                try:
                    move(number, data)
                except (OSError, PeerLost) as error:
                    fault = error if isinstance(error, PeerLost) else PeerLost(f"{self._name}: {error}")
            number += 1
            if fault is None:
                future.set_result(None)
            else:
                # What broke stays broken: everything that is posted later fails as well.
                future.set_exception(fault)

    def _send(self, number: int, data: memoryview) -> None:
        self._connection.sendall(_HEADER.pack(number, data.nbytes))
        self._connection.sendall(data)

    def _receive(self, number: int, data: memoryview) -> None:
        header = bytearray(_HEADER.size)
        _receive(self._connection, memoryview(header))
        told, length = _HEADER.unpack(header)
        if (told, length) != (number, data.nbytes):
            raise PeerLost(
                f"{self._name}: its message {told} has {length} bytes, expected was message {number} "
                f"of {data.nbytes}: the ranks are at different places"
            )
        _receive(self._connection, data)


def _put(jobs: queue.SimpleQueue, data: memoryview) -> Future:
    future: Future = Future()
    jobs.put((data, future))
    return future


def _dial(address: str, rank: int, until: float) -> socket.socket:
    host, port, secret = address.split("|")
    connection = socket.create_connection((host, int(port)), timeout=_left(until))
    connection.sendall(_HELLO.pack(bytes.fromhex(secret), rank))
    return connection


def _receive(connection: socket.socket, data: memoryview) -> None:
    while data.nbytes:
        count = connection.recv_into(data)
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
