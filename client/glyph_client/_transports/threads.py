"""Connections that threads drive."""

import contextlib
import socket
import ssl
import time
from collections.abc import Mapping
from typing import Any, Final, Generic

from glyph_client._errors import CallError, ClientClosed, call_error
from glyph_client._threads import in_thread
from glyph_client._transports.base import Options, Target
from glyph_client._transports.exchange import Answer, Broken, Calls, Connection, Refused, Reset, failure
from glyph_client._transports.pool import Address, Pool, PooledT
from glyph_client._transports.tls import reason, ssl_context
from glyph_client._types import Request, Response

CONNECT_SECONDS: Final = 3.0  # at most, so that an address from which nothing comes does not use up a call's time
_PORTS: Final = {"http": 80, "https": 443}  # where the address names none
_READ: Final = 65_536  # bytes at once
# Seconds until the system asks a silent peer whether it still lives, seconds between its questions, and their number,
# each where the system has it, by the name it has there.
_KEEPALIVE: Final = (("TCP_KEEPIDLE", 60), ("TCP_KEEPALIVE", 60), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))


class BaseTransport(Generic[PooledT]):
    """What the transport for threads and the one for asyncio share.

    Args:
        target: where to.
        calls: how requests are said there.
        options: certificates, and whether there is another target.

    Raises:
        TargetError: a certificate cannot be used.
    """

    def __init__(self, target: Target, calls: Calls, options: Options) -> None:
        self.target = target.text
        self._host, self._port = target.host, target.port or _PORTS[target.scheme]
        self._server_name = target.server_name
        self._has_others = options.has_others
        self._calls = calls
        self._tls = ssl_context(options.tls) if target.scheme in {"grpcs", "https"} else None
        if self._tls:
            self._tls.set_alpn_protocols([calls.alpn])
        self._pool: Pool[PooledT] = Pool(balanced=target.scheme == "dns")

    def _look_up(self) -> list[Any]:
        return socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)

    def _lookup_seconds(self, end: float) -> float:
        """How long a look-up may take: where the call can do without, no longer than connecting."""
        if self._has_others or self._pool.knows_addresses:
            return self._connect_seconds(end, is_last=False)
        return end - time.monotonic()

    def _connect_seconds(self, end: float, *, is_last: bool) -> float:
        """How long connecting may take: where there is another address or target, half of what is left at most."""
        left = end - time.monotonic()
        return min(CONNECT_SECONDS, left if is_last and not self._has_others else left / 2)

    def _not_found(self, error: OSError | UnicodeError, end: float) -> None:
        """What becomes of a call whose look-up failed: returns where addresses are known from before.

        Raises:
            CallError: none are.
        """
        if time.monotonic() >= end:
            raise call_error("DEADLINE_EXCEEDED", "the name was not looked up in time") from error
        if not self._pool.knows_addresses:
            why = getattr(error, "strerror", None) or str(error) or "no answer in time"
            raise call_error("UNAVAILABLE", f"the name cannot be looked up: {why}") from error

    def _lost(
        self, connection: PooledT, error: Broken | Refused | Reset | OSError, end: float, *, is_new: bool
    ) -> None:
        """What becomes of a call whose exchange failed: returns where another connection is to carry it.

        Raises:
            CallError: none is.
        """
        self._pool.discard(connection)
        if isinstance(error, Refused) and not is_new:
            return
        if isinstance(error, Broken | OSError):  # A server that hangs is left, too.
            self._pool.failed(connection.address)
        if time.monotonic() >= end:  # Which the server may have noticed first.
            raise call_error("DEADLINE_EXCEEDED", "no answer in time") from error
        if self._pool.closed:
            raise ClientClosed from error
        raise failure(error) from error


class ThreadTransport(BaseTransport["ThreadConnection"]):
    """Connections to one target, each with one call at a time."""

    def send(self, request: Request, *, timeout: float, headers: Mapping[str, str]) -> Response:
        """Sends a request and returns its response (see `Transport.send`)."""
        end = time.monotonic() + timeout
        head, body = self._calls.write(request, timeout, headers)
        while True:
            connection, is_new = self._connection(end)
            try:
                answer = connection.exchange(head, body, end)
            except (Broken, Refused, Reset, OSError) as error:
                self._lost(connection, error, end, is_new=is_new)
            except BaseException:
                self._pool.discard(connection)
                raise
            else:
                self._pool.give_back(connection)
                return self._calls.read(request, answer)

    def close(self) -> None:
        """Closes the connections; calls under way end with an error."""
        self._pool.close()

    def _connection(self, end: float) -> "tuple[ThreadConnection, bool]":
        """One to the address whose turn it is, and whether it is new."""
        pool = self._pool
        if pool.lookup_due():
            try:  # The system's resolver keeps no time, so that a thread has to wait for it.
                pool.learn(in_thread(self._look_up).result(self._lookup_seconds(end)))
            except (OSError, UnicodeError) as error:  # The latter for what no name can be.
                self._not_found(error, end)
        order = pool.in_turn()
        for address in order:
            while connection := pool.take(address):
                if connection.is_alive():
                    return connection, False
                pool.discard(connection)
            seconds = self._connect_seconds(end, is_last=address is order[-1])
            try:
                connection = ThreadConnection(address, self._connect(address, seconds), self._calls.connection())
            except OSError as error:
                pool.failed(address)
                failed = error
            else:
                pool.add(connection)
                return connection, True
        raise not_connected(failed, end, seconds) from failed

    def _connect(self, address: Address, seconds: float) -> socket.socket:
        end = time.monotonic() + seconds
        with contextlib.ExitStack() as stack:
            connected = stack.enter_context(new_socket(address))
            wait_until(end, connected)
            connected.connect(address[1])
            if self._tls:
                wait_until(end, connected)
                connected = stack.enter_context(self._tls.wrap_socket(connected, server_hostname=self._server_name))
            stack.pop_all()
            return connected


class ThreadConnection:
    """A connection, driven by the thread that has taken it."""

    def __init__(self, address: Address, connected: socket.socket, protocol: Connection) -> None:
        self.address = address
        self._socket = connected
        self._protocol = protocol

    @property
    def usable(self) -> bool:
        """Whether it takes a further request, as far as is known."""
        return self._protocol.usable

    def is_alive(self) -> bool:
        """Takes what came since the last call; whether another one may follow."""
        try:
            self._socket.settimeout(0.0)
            while self.usable:
                self._socket.sendall(self._protocol.idle(self._socket.recv(_READ)))
        except (BlockingIOError, ssl.SSLWantReadError):
            return self.usable
        except (Broken, OSError):
            pass
        return False

    def exchange(self, head: Any, body: bytes, end: float) -> Answer:
        """Sends a request and waits for its answer (see `Connection.exchange`).

        Raises:
            TimeoutError: not by the moment `end`, in seconds of `time.monotonic`.
            OSError: the connection failed.
        """
        steps = self._protocol.exchange(head, body)
        to_send = next(steps)
        try:
            while True:
                if to_send:
                    self._send(to_send, end)
                wait_until(end, self._socket)
                to_send = steps.send(self._socket.recv(_READ))
        except StopIteration as stop:
            answer: Answer = stop.value
        if owed := self._protocol.owed():
            self._send(owed, end)
        return answer

    def _send(self, data: bytes, end: float) -> None:
        unsent = memoryview(data)
        try:
            while unsent:  # sendall would count the time anew for each piece that TLS makes of it.
                wait_until(end, self._socket)
                unsent = unsent[self._socket.send(unsent) :]
        except OSError:  # The answer may be there already; if it is not, reading fails too.
            self._protocol.usable = False

    def shut_down(self) -> None:
        """Ends what another thread does with it, who then closes it."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """Closes it."""
        self._socket.close()


def wait_until(end: float, connected: socket.socket) -> None:
    """Has the socket's next step wait no longer.

    Raises:
        TimeoutError: it is that late already.
    """
    left = end - time.monotonic()
    if left <= 0.0:
        raise TimeoutError
    connected.settimeout(left)


def new_socket(address: Address) -> socket.socket:
    """A socket that sends at once and notices a peer that is gone."""
    new = socket.socket(address[0], socket.SOCK_STREAM)
    new.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    new.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        if hasattr(socket, name):
            new.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return new


def not_connected(error: OSError, end: float, seconds: float) -> CallError:
    """The error of a call that found no address to connect to, the last of them within so many seconds."""
    if time.monotonic() >= end:
        return call_error("DEADLINE_EXCEEDED", "no connection in time")
    if isinstance(error, TimeoutError):
        return call_error("UNAVAILABLE", f"no connection within {seconds:.2g} s")
    return call_error("UNAVAILABLE", f"no connection: {reason(error)}")
