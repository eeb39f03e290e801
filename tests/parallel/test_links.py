"""Byte links: who may connect, what arrives, and what happens when a peer ends."""

from __future__ import annotations

import multiprocessing
import os
import socket
import struct
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection

import numpy as np
import pytest

from vidgen_dist.parallel.collectives import PeerLost
from vidgen_dist.parallel.links import Links, Listener

LOCAL = "127.0.0.1"
PATIENCE = 60.0


def loopbacks() -> list[str]:
    """The loopback addresses that this machine has."""
    found = [LOCAL]
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return found
    return [*found, "::1"]


@contextmanager
def connected(size: int, host: str = LOCAL) -> Iterator[list[Links]]:
    listeners = [Listener(host) for _ in range(size)]
    addresses = [listener.address for listener in listeners]
    with ThreadPoolExecutor(size) as pool:
        links = list(
            pool.map(lambda rank: listeners[rank].connect(addresses, rank, PATIENCE), range(size)),
        )
    try:
        yield links
    finally:
        for link in links:
            link.close()


@contextmanager
def beside_a_stranger(timeout: float = PATIENCE) -> Iterator[tuple[Links, socket.socket]]:
    """Rank 0 of two, and the plain socket that it takes for rank 1."""
    with socket.create_server((LOCAL, 0)) as server:
        stranger = socket.create_connection(server.getsockname())
        links = Links(0, {1: server.accept()[0]}, timeout)
    try:
        yield links, stranger
    finally:
        links.close()
        stranger.close()


def message(rank: int, peer: int, size: int) -> np.ndarray:
    return np.random.default_rng([rank, peer]).integers(0, 256, size, dtype=np.uint8)


def port_of(listener: Listener) -> tuple[str, int]:
    host, port, _ = listener.address.split("|")
    return host, int(port)


def until(done: Callable[[], bool]) -> None:
    limit = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < limit, "it does not happen"
        time.sleep(0.01)


# What arrives. -----------------------------------------------------------------------------------


@pytest.mark.parametrize("host", loopbacks())
@pytest.mark.parametrize("size", [1, 2, 4])
def test_every_rank_reaches_every_other(host: str, size: int) -> None:
    # Rank r sends rank p about r + p kilobytes; to the highest ones far more than a socket's buffer holds.
    def length(r: int, p: int) -> int:
        return (r + p) ** 4 * 10_000 + 1

    with connected(size, host) as links:
        exchanges, places = [], []
        for r, link in enumerate(links):
            others = [p for p in range(size) if p != r]
            places.append({p: np.zeros(length(r, p), np.uint8) for p in others})
            exchanges.append(
                link.exchange(
                    [(p, message(r, p, length(r, p)).data) for p in others],
                    [(p, places[r][p].data) for p in others],
                )
            )
        for exchange in exchanges:
            exchange.wait()
    for r, taken in enumerate(places):
        for p, array in taken.items():
            np.testing.assert_array_equal(array, message(p, r, length(r, p)))


def test_thousands_of_exchanges_leave_nothing_behind() -> None:
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    with connected(2) as (first, second):
        given, taken = np.zeros(3, np.uint8), np.zeros(3, np.uint8)
        for n in range(3000):
            given[:] = n % 251
            going = first.exchange([(1, given.data)], [])
            second.exchange([], [(0, taken.data)]).wait()
            going.wait()
            assert taken.tolist() == given.tolist()
        assert threading.active_count() == threads + 4
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == (threads, files)


def test_memory_is_let_go_of_when_the_exchange_has_ended() -> None:
    with connected(2) as (first, second):
        given, taken = np.zeros(1000, np.uint8), np.zeros(1000, np.uint8)
        held = [weakref.ref(given), weakref.ref(taken)]
        exchanges = [first.exchange([(1, given.data)], []), second.exchange([], [(0, taken.data)])]
        for exchange in exchanges:
            exchange.wait()
        del given, taken, exchange, exchanges
        until(lambda: all(reference() is None for reference in held))


# Who gets in. ------------------------------------------------------------------------------------


def test_strangers_hold_nobody_up() -> None:
    listeners = [Listener(LOCAL), Listener(LOCAL)]
    addresses = [listener.address for listener in listeners]
    silent, gone, chatty, forger = (socket.create_connection(port_of(listeners[0])) for _ in range(4))
    gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # ends by a reset
    gone.close()
    chatty.sendall(b"GET / HTTP/1.1\r\nHost: vidgen\r\n\r\n")
    forger.sendall(bytes(16) + struct.pack("!I", 1))
    with ThreadPoolExecutor(2) as pool:
        links = list(pool.map(lambda rank: listeners[rank].connect(addresses, rank, PATIENCE), range(2)))
    taken = np.zeros(5, np.uint8)
    going = links[1].exchange([(0, message(1, 0, 5).data)], [])
    links[0].exchange([], [(1, taken.data)]).wait()
    going.wait()
    np.testing.assert_array_equal(taken, message(1, 0, 5))
    for stranger in (silent, forger):
        stranger.settimeout(PATIENCE)
        assert stranger.recv(1) == b""
    with pytest.raises(ConnectionResetError):  # the rest of what it sent was not read
        chatty.recv(1)
    for end in (silent, forger, chatty, *links):
        end.close()


def test_a_wrong_secret_is_turned_away() -> None:
    listeners = [Listener(LOCAL), Listener(LOCAL)]
    host, port, secret = listeners[0].address.split("|")
    forged = f"{host}|{port}|{secret[::-1]}"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(listeners[0].connect, [listener.address for listener in listeners], 0, 0.5)
        with pytest.raises(PeerLost, match=r"^rank 1: no connection to rank 0 \("):
            listeners[1].connect([forged, listeners[1].address], 1, PATIENCE)
        with pytest.raises(PeerLost, match=r"^rank 0: no connection to rank 1 \("):
            waiting.result()


def test_who_does_not_come_is_named() -> None:
    listeners = [Listener(LOCAL) for _ in range(4)]
    addresses = [listener.address for listener in listeners]
    with ThreadPoolExecutor(1) as pool:
        came = pool.submit(listeners[2].connect, addresses, 2, 0.5)
        with pytest.raises(PeerLost, match=r"^rank 0: no connection to rank 1, 3 \("):
            listeners[0].connect(addresses, 0, 0.5)
        # It connected to 0; 1 listens, but never joins.
        with pytest.raises(PeerLost, match=r"^rank 2: no connection to rank 1 \("):
            came.result()


def test_who_is_gone_before_the_others_join_is_named_at_once() -> None:
    listeners = [Listener(LOCAL), Listener(LOCAL)]
    listeners[0].close()
    with pytest.raises(PeerLost, match=r"^rank 1: no connection to rank 0 \(.*refused"):
        listeners[1].connect([listener.address for listener in listeners], 1, PATIENCE)


# Who goes. ---------------------------------------------------------------------------------------


def send_much(connection: Connection) -> None:
    """Rank 1 of two, which sends more than the sockets' buffers hold, and so cannot finish."""
    listener = Listener(LOCAL)
    connection.send(listener.address)
    links = listener.connect(connection.recv(), 1, PATIENCE)
    exchange = links.exchange([(0, np.zeros(2**26, np.uint8).data)], [])
    connection.send("sending")
    exchange.wait()


def test_a_peer_that_is_killed_in_the_middle_of_a_message() -> None:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=send_much, args=(there,), daemon=True)
    process.start()
    listener = Listener(LOCAL)
    addresses = [listener.address, here.recv()]
    here.send(addresses)
    links = listener.connect(addresses, 0, PATIENCE)
    assert here.recv() == "sending"
    os.kill(process.pid, 9)
    process.join()
    with pytest.raises(PeerLost, match=r"rank 1, as rank 0 sees it: "):
        links.exchange([], [(1, np.zeros(2**26, np.uint8).data)]).wait()
    links.close()


def test_a_message_that_ends_halfway() -> None:
    with beside_a_stranger() as (links, stranger):
        taken = np.zeros(100, np.uint8)
        first = links.exchange([], [(1, taken.data)])
        second = links.exchange([], [(1, taken.data)])
        stranger.sendall(struct.pack("!QQ", 0, 100) + bytes(50))
        stranger.close()
        for exchange in (first, second, links.exchange([], [(1, taken.data)])):
            with pytest.raises(PeerLost, match=r"^rank 1, as rank 0 sees it: the connection has ended$"):
                exchange.wait()


@pytest.mark.parametrize(("number", "length"), [(0, 99), (1, 100)])
def test_a_message_that_is_not_the_expected_one(number: int, length: int) -> None:
    with beside_a_stranger() as (links, stranger):
        stranger.sendall(struct.pack("!QQ", number, length))
        said = f"sent message {number} of {length} bytes instead of message 0 of 100"
        with pytest.raises(PeerLost, match=said):
            links.exchange([], [(1, np.zeros(100, np.uint8).data)]).wait()


def test_a_peer_that_is_silent() -> None:
    with beside_a_stranger(timeout=0.1) as (links, _):
        exchange = links.exchange([], [(1, np.zeros(1, np.uint8).data)])
        with pytest.raises(PeerLost, match=r"^rank 1 has not answered for 0\.1 s$"):
            exchange.wait()


def test_closing_ends_what_is_under_way() -> None:
    with beside_a_stranger() as (links, _):
        much = np.zeros(2**26, np.uint8)
        # Nobody reads from the one, nobody writes to the other.
        exchanges = [links.exchange([(1, much.data)], []), links.exchange([], [(1, much.data)])]
        links.close()
        for exchange in exchanges:
            with pytest.raises(PeerLost, match=r"^rank 1, as rank 0 sees it: "):
                exchange.wait()
        with pytest.raises(PeerLost, match=r"the connection was closed here$"):
            links.exchange([], [(1, much.data)]).wait()
        links.close()


def test_closing_from_another_thread_wakes_who_waits() -> None:
    with beside_a_stranger() as (links, _), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(links.exchange([], [(1, np.zeros(1, np.uint8).data)]).wait)
        links.close()
        with pytest.raises(PeerLost, match=r"^rank 1, as rank 0 sees it: "):
            waiting.result(PATIENCE)
