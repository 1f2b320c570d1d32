"""Ranks find each other over real sockets, and notice who is gone."""

from __future__ import annotations

import contextlib
import queue
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from harness import free_ports
from trt_tokenizers.engines.transformers.peers import Peers, interface_of
from trt_tokenizers.errors import EngineError
from trt_tokenizers.mpi_environment import Rank

FACTS = "cpu, torch 2"


@pytest.fixture(autouse=True)
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a test leaves open is closed."""
    found: list[Peers] = []
    original = Peers.__init__

    def init(peers: Peers, *arguments: Any) -> None:
        found.append(peers)
        original(peers, *arguments)

    monkeypatch.setattr(Peers, "__init__", init)
    yield
    for peers in found:
        drop(peers)
    for peers in found:
        peers.close(wait=5)


def meet(
    size: int, *, facts: dict[int, str] | None = None, absent: int | None = None, timeout: float = 5
) -> list[Future[Peers]]:
    address = ("127.0.0.1", free_ports(1)[0])
    with ThreadPoolExecutor(size) as pool:
        return [
            pool.submit(
                Peers, Rank(index, size), address, (facts or {}).get(index, FACTS),
                f"note of {index}", timeout,
            )
            for index in range(size)
            if index != absent
        ]  # fmt: skip


def watched(peers: Peers) -> Callable[[], str]:
    lost: queue.SimpleQueue[str] = queue.SimpleQueue()
    peers.watch(lost.put)
    return lambda: lost.get(timeout=5)


def drop(peers: Peers) -> None:
    """As the kernel does when the process ends."""
    for connection in peers._sockets.values():
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


def test_all_hear_the_leaders_note() -> None:
    ranks = [future.result() for future in meet(3)]
    assert [rank.note for rank in ranks] == ["note of 0"] * 3
    assert {rank.own_address for rank in ranks} == {"127.0.0.1"}


def test_the_leader_notices_who_is_gone() -> None:
    leader, _, last = [future.result() for future in meet(3)]
    lost = watched(leader)
    drop(last)
    assert lost() == "rank 2 has ended" == leader.lost
    assert leader.settled.is_set()
    assert not leader.stopping.is_set()


def test_the_others_notice_that_the_leader_is_gone() -> None:
    leader, other, _ = [future.result() for future in meet(3)]
    lost = watched(other)
    drop(leader)
    assert lost() == "rank 0, the leader, has ended"


def test_a_stop_that_was_told_is_no_loss() -> None:
    leader, other = [future.result() for future in meet(2)]
    watched(leader), watched(other)
    leader.tell_stop()
    assert other.settled.wait(5)
    assert other.stopping.is_set()
    other.close()
    leader.close(wait=5)
    assert leader.lost is None is other.lost


def test_who_goes_without_a_word_is_lost_even_while_others_part() -> None:
    leader, first, second = [future.result() for future in meet(3)]
    lost = watched(leader)
    first.close()
    drop(second)
    assert lost() == "rank 2 has ended"


def test_a_rank_that_does_not_come_is_named_on_all_others() -> None:
    for future in meet(3, absent=2, timeout=0.5):
        with pytest.raises(EngineError, match="rank 2 of 3 did not come to MASTER_ADDR 127"):
            future.result()


def test_a_leader_that_does_not_come() -> None:
    (future,) = meet(2, absent=0, timeout=0.3)
    with pytest.raises(
        EngineError, match=r"rank 1 cannot reach rank 0 on MASTER_ADDR 127\.0\.0\.1"
    ):
        future.result()


def test_ranks_that_differ_are_refused_everywhere() -> None:
    for future in meet(2, facts={1: "cpu, torch 3"}):
        with pytest.raises(
            EngineError, match="rank 1 has cpu, torch 3 and rank 0 has cpu, torch 2"
        ):
            future.result()


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = ("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(EngineError, match=r"cannot listen on .*: Address already in use"):
            Peers(Rank(0, 2), address, FACTS, "", 1)


def test_who_is_no_rank_is_let_go() -> None:
    (port,) = free_ports(1)
    address = ("127.0.0.1", port)
    with ThreadPoolExecutor(2) as pool:
        leader = pool.submit(Peers, Rank(0, 2), address, FACTS, "note", 5)
        while True:
            try:
                stranger = socket.create_connection(address, timeout=5)
                break
            except ConnectionRefusedError:
                continue
        with stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert pool.submit(Peers, Rank(1, 2), address, FACTS, "", 5).result().note == "note"
            assert leader.result().lost is None


def test_interface() -> None:
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("203.0.113.7") is None
