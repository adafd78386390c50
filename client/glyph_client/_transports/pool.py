"""The connections to one name: which are idle, and whose turn it is. It opens none itself."""

import os
import socket
import threading
import time
from collections.abc import Hashable, Iterable
from typing import Any, Final, Generic, Protocol, TypeVar

from glyph_client._errors import ClientClosed

Address = tuple[socket.AddressFamily, Any]

_IDLE_SECONDS: Final = 300.0  # a connection is kept so long without a request
_DOWN_SECONDS: Final = 10.0  # other addresses are preferred so long to one that failed
_LOOKUP_SECONDS: Final = 30.0  # a name may have got other addresses since


class Pooled(Hashable, Protocol):
    """A connection in a pool.

    Attributes:
        address: where it leads.
        usable: whether it takes a further request.
    """

    address: Address

    @property
    def usable(self) -> bool: ...

    def close(self) -> None:
        """Closes it."""

    def shut_down(self) -> None:
        """Ends the request that is under way; whoever asked then closes it."""


PooledT = TypeVar("PooledT", bound=Pooled)


class Pool(Generic[PooledT]):
    """Connections to the addresses of a name, one request at a time on each; safe to use from several threads.

    For each request: look the name up if that is due, then try the addresses in turn; each has an idle connection to
    take, or one is to be opened. The connection is given back, or discarded after an error.

    Args:
        balanced: whether requests go to all addresses in turn, rather than to the first that answers.

    Attributes:
        closed: whether `close` was called.
    """

    def __init__(self, *, balanced: bool) -> None:
        self._balanced = balanced
        self._addresses: list[Address] = []
        self._first = 0
        self._down_until: dict[Address, float] = {}
        self._next_lookup = 0.0
        self.closed = False
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._idle: dict[Address, list[tuple[PooledT, float]]] = {}
        self._busy: set[PooledT] = set()
        self._process = os.getpid()

    def _leave_parent(self) -> None:
        """In a process that was forked, drops the connections: they are its parent's, who uses them on."""
        if self._process != os.getpid():
            self._start()

    def lookup_due(self) -> bool:
        """Whether the name is to be looked up before the next request.

        Raises:
            ClientClosed: the pool is.
        """
        if self.closed:
            raise ClientClosed
        self._leave_parent()
        now = time.monotonic()
        if self._next_lookup > now:
            return False
        if self.knows_addresses:  # This request looks; the others need not wait for it.
            self._next_lookup = now + _LOOKUP_SECONDS
        return True

    @property
    def knows_addresses(self) -> bool:
        """Whether a look-up has found any so far."""
        return bool(self._addresses)

    def learn(self, found: Iterable[tuple[socket.AddressFamily, Any, Any, Any, Any]]) -> None:
        """Takes what `getaddrinfo` found. Idle connections to addresses that are gone are closed."""
        with self._lock:
            before = self._addresses[self._first : self._first + 1]
            self._addresses = list(dict.fromkeys((family, address) for family, *_, address in found))
            self._first = next((self._addresses.index(each) for each in before if each in self._addresses), 0)
            self._next_lookup = time.monotonic() + _LOOKUP_SECONDS if self._balanced else float("inf")
            for address in self._idle.keys() - set(self._addresses):
                for connection, _ in self._idle.pop(address):
                    connection.close()

    def in_turn(self) -> list[Address]:
        """The addresses in the order in which the next request tries them."""
        with self._lock:
            if self._balanced:
                self._first = (self._first + 1) % len(self._addresses)
            order = self._addresses[self._first :] + self._addresses[: self._first]
            if self._down_until:
                now = time.monotonic()
                order.sort(key=lambda address: self._down_until.get(address, 0.0) > now)
                if order[0] in self._down_until:  # This request finds out; the others need not wait for it.
                    self._down_until[order[0]] = now + _DOWN_SECONDS
            return order

    def failed(self, address: Address) -> None:
        """Prefers other addresses for a while, and has the name looked up again."""
        with self._lock:
            now = time.monotonic()
            self._down_until[address] = now + _DOWN_SECONDS
            self._next_lookup = min(self._next_lookup, now)

    def take(self, address: Address) -> PooledT | None:
        """An idle connection, the one that was used last, if there is any."""
        with self._lock:
            idle = self._idle.get(address)
            if not idle:
                return None
            connection, _ = idle.pop()
            self._busy.add(connection)
            return connection

    def add(self, connection: PooledT) -> None:
        """Takes note of a connection that was opened, and of its address as one that answers."""
        with self._lock:
            self._down_until.pop(connection.address, None)
            if not self._balanced and connection.address in self._addresses:
                self._first = self._addresses.index(connection.address)
            self._busy.add(connection)
            closed = self.closed
        if closed:
            connection.close()

    def give_back(self, connection: PooledT) -> None:
        """Keeps a connection that takes a further request, and closes one that has not been needed for long."""
        if not connection.usable:
            self.discard(connection)
            return
        now = time.monotonic()
        with self._lock:
            self._busy.discard(connection)
            idle = self._idle.setdefault(connection.address, [])
            idle.append((connection, now))
            is_unwanted = self.closed or connection.address not in self._addresses
            unneeded = idle.pop(0)[0] if is_unwanted or idle[0][1] + _IDLE_SECONDS < now else None
        if unneeded is not None:
            unneeded.close()

    def discard(self, connection: PooledT) -> None:
        """Closes a connection that cannot be used any more."""
        with self._lock:
            self._busy.discard(connection)
        connection.close()

    def close(self) -> None:
        """Closes all connections, also those with a request under way."""
        self._leave_parent()
        with self._lock:
            self.closed = True
            for connection in self._busy:
                connection.shut_down()
            for idle in self._idle.values():
                for connection, _ in idle:
                    connection.close()
            self._idle.clear()
