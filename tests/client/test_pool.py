"""Which connection a call takes, and to which address."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any

import pytest
from glyph_client import ClientClosed
from glyph_client._transports import pool as pools
from glyph_client._transports.pool import Pool

ONE, TWO, THREE = ((socket.AF_INET, (f"127.0.0.{end}", 8500)) for end in (1, 2, 3))


@dataclass(eq=False)
class Connection:
    """Remembers how it ended."""

    address: Any
    ended: str = ""
    usable: bool = True

    def close(self) -> None:
        self.ended += "closed "

    def shut_down(self) -> None:
        self.ended += "shut down "


class Clock:
    """Stands in for the time."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pools, "time", clock)
    return clock


def pool_of(*addresses: Any, balanced: bool = False) -> Pool[Connection]:
    pool: Pool[Connection] = Pool(balanced=balanced)
    learn(pool, *addresses)
    return pool


def learn(pool: Pool[Connection], *addresses: Any) -> None:
    pool.learn([(family, socket.SOCK_STREAM, 6, "", address) for family, address in addresses])


def opened(pool: Pool[Connection], address: Any) -> Connection:
    connection = Connection(address)
    pool.add(connection)
    return connection


def test_a_balanced_name_has_its_addresses_in_turn() -> None:
    pool = pool_of(ONE, TWO, TWO, THREE, balanced=True)
    assert [pool.in_turn()[0] for _ in range(4)] == [TWO, THREE, ONE, TWO]


def test_another_name_stays_with_the_address_that_answers(clock: Clock) -> None:
    pool = pool_of(ONE, TWO)
    assert pool.in_turn() == [ONE, TWO]
    pool.failed(ONE)
    opened(pool, TWO)
    for _ in range(3):
        clock.now += 60
        assert pool.in_turn() == [TWO, ONE]
    learn(pool, ONE, THREE, TWO)
    assert pool.in_turn() == [TWO, ONE, THREE]
    learn(pool, ONE, THREE)
    assert pool.in_turn() == [ONE, THREE]


def test_an_address_that_failed_comes_last_until_one_call_finds_it_well(clock: Clock) -> None:
    pool = pool_of(ONE, TWO, balanced=True)
    pool.failed(TWO)
    assert [pool.in_turn()[0] for _ in range(3)] == [ONE] * 3
    clock.now += 10
    assert [pool.in_turn()[0] for _ in range(4)].count(TWO) == 1
    opened(pool, TWO)
    assert [pool.in_turn()[0] for _ in range(4)].count(TWO) == 2


def test_a_balanced_name_is_looked_up_now_and_then_by_one_call(clock: Clock) -> None:
    pool = pool_of(ONE, balanced=True)
    assert not pool.lookup_due()
    clock.now += 30
    assert [pool.lookup_due() for _ in range(3)] == [True, False, False]
    assert pool.in_turn() == [ONE]


def test_another_name_is_looked_up_when_an_address_failed(clock: Clock) -> None:
    pool: Pool[Connection] = Pool(balanced=False)
    assert [pool.lookup_due() for _ in range(2)] == [True, True]
    learn(pool, ONE)
    clock.now += 1e6
    assert not pool.lookup_due()
    pool.failed(ONE)
    assert pool.lookup_due()


def test_the_connection_that_was_used_last_is_taken() -> None:
    pool = pool_of(ONE, TWO)
    first, second = opened(pool, ONE), opened(pool, ONE)
    assert pool.take(ONE) is None
    for connection in (first, second):
        pool.give_back(connection)
    assert pool.take(TWO) is None
    assert pool.take(ONE) is second
    assert pool.take(ONE) is first
    pool.discard(first)
    assert (first.ended, second.ended) == ("closed ", "")


def test_what_takes_no_further_request_is_closed_at_once() -> None:
    pool = pool_of(ONE)
    kept, last = opened(pool, ONE), opened(pool, ONE)
    pool.give_back(kept)
    last.usable = False
    pool.give_back(last)
    assert (kept.ended, last.ended) == ("", "closed ")
    assert pool.take(ONE) is kept
    assert pool.take(ONE) is None


def test_what_is_not_needed_for_long_is_closed(clock: Clock) -> None:
    pool = pool_of(ONE)
    first, second = opened(pool, ONE), opened(pool, ONE)
    pool.give_back(first)
    clock.now += 301
    pool.give_back(second)
    assert (first.ended, second.ended) == ("closed ", "")
    assert pool.take(ONE) is second


def test_connections_to_addresses_that_are_gone_are_closed() -> None:
    pool = pool_of(ONE, TWO)
    idle, busy, kept = opened(pool, ONE), opened(pool, ONE), opened(pool, TWO)
    for connection in (idle, kept):
        pool.give_back(connection)
    learn(pool, TWO)
    pool.give_back(busy)
    assert (idle.ended, busy.ended, kept.ended) == ("closed ", "closed ", "")


def test_closing_ends_what_is_idle_what_is_busy_and_what_comes_after() -> None:
    pool = pool_of(ONE)
    idle, busy = opened(pool, ONE), opened(pool, ONE)
    pool.give_back(idle)
    pool.close()
    late = opened(pool, ONE)
    for connection in (busy, late):
        pool.give_back(connection)
    assert (idle.ended, busy.ended, late.ended) == ("closed ", "shut down closed ", "closed closed ")
    with pytest.raises(ClientClosed, match=r"CANCELLED: the client was closed.*Close it once all calls"):
        pool.lookup_due()
