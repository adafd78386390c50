"""Connections that an event loop drives."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Mapping
from typing import Any, Final, cast

from glyph_client._errors import call_error
from glyph_client._threads import in_thread
from glyph_client._transports.base import Options, Target
from glyph_client._transports.exchange import Answer, Broken, Calls, Connection, Exchange, Refused, Reset
from glyph_client._transports.pool import Address
from glyph_client._transports.threads import BaseTransport, new_socket, not_connected
from glyph_client._types import Request, Response

_MOST_CONNECTIONS: Final = 100  # further calls wait


class TaskTransport(BaseTransport["TaskConnection"]):
    """As `ThreadTransport`, with calls that wait when there are many."""

    def __init__(self, target: Target, calls: Calls, options: Options) -> None:
        super().__init__(target, calls, options)
        self._slots = asyncio.Semaphore(_MOST_CONNECTIONS)

    async def send(self, request: Request, *, timeout: float, headers: Mapping[str, str]) -> Response:
        """Sends a request and returns its response (see `Transport.send`)."""
        end = time.monotonic() + timeout
        head, body = self._calls.write(request, timeout, headers)
        try:
            async with asyncio.timeout(timeout), self._slots:
                answer = await self._exchange(head, body, end)
        except TimeoutError as error:
            raise call_error("DEADLINE_EXCEEDED", "no answer in time") from error
        return self._calls.read(request, answer)

    async def close(self) -> None:
        """Closes the connections; calls under way end with an error."""
        self._pool.close()
        await asyncio.sleep(0)  # The event loop takes note of it.

    async def _exchange(self, head: Any, body: bytes, end: float) -> Answer:
        while True:
            connection, is_new = await self._connection(end)
            try:
                answer = await connection.exchange(head, body)
            except (Broken, Refused, Reset, OSError) as error:
                self._lost(connection, error, end, is_new=is_new)
            except BaseException:
                self._pool.discard(connection)
                if time.monotonic() >= end:  # It was the call's own time, and not the caller, that ended it.
                    self._pool.failed(connection.address)
                raise
            else:
                self._pool.give_back(connection)
                return answer

    async def _connection(self, end: float) -> "tuple[TaskConnection, bool]":
        """One to the address whose turn it is, and whether it is new."""
        pool = self._pool
        if pool.lookup_due():
            try:
                async with asyncio.timeout(self._lookup_seconds(end)):
                    pool.learn(await asyncio.wrap_future(in_thread(self._look_up)))
            except (OSError, UnicodeError) as error:  # The latter for what no name can be.
                self._not_found(error, end)
        order = pool.in_turn()
        for address in order:
            if living := await self._take(address):
                return living, False
            seconds = self._connect_seconds(end, is_last=address is order[-1])
            try:
                async with asyncio.timeout(seconds):
                    connection = await self._connect(address)
            except OSError as error:
                pool.failed(address)
                failed = error
            else:
                pool.add(connection)
                return connection, True
        raise not_connected(failed, end, seconds) from failed

    async def _take(self, address: Address) -> "TaskConnection | None":
        """An idle connection that another call may follow on, if there is any."""
        while connection := self._pool.take(address):
            try:
                if await connection.is_alive():
                    return connection
            except BaseException:
                self._pool.discard(connection)
                raise
            self._pool.discard(connection)
        return None

    async def _connect(self, address: Address) -> "TaskConnection":
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as stack:
            connected = stack.enter_context(new_socket(address))
            connected.setblocking(False)
            await loop.sock_connect(connected, address[1])
            _, connection = await loop.create_connection(
                lambda: TaskConnection(address, connected, self._calls.connection()),
                sock=connected,
                ssl=self._tls,
                server_hostname=self._server_name if self._tls else None,
            )
            stack.pop_all()
            return connection


class TaskConnection(asyncio.Protocol):
    """A connection, driven by the event loop for the task that has taken it."""

    def __init__(self, address: Address, connected: socket.socket, protocol: Connection) -> None:
        self.address = address
        self._socket = connected
        self._protocol = protocol
        self._steps: Exchange | None = None
        self._answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    @property
    def usable(self) -> bool:
        """Whether it takes a further request, as far as is known."""
        return self._protocol.usable and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        try:
            self._transport.write(self._steps.send(data) if self._steps is not None else self._protocol.idle(data))
        except StopIteration as stop:
            self._transport.write(self._protocol.owed())
            self._end(stop.value)
        except (Broken, Refused, Reset) as error:
            self._transport.abort()
            self._end(error)

    def eof_received(self) -> None:
        """Called by the event loop."""
        self.data_received(b"")

    def connection_lost(self, error: Exception | None) -> None:
        """Called by the event loop."""
        self._end(error or Broken("the server closed the connection"))

    async def is_alive(self) -> bool:
        """Whether another call may follow, once the event loop has taken what came since the last one."""
        try:
            while self.usable:
                if not self._socket.recv(1, socket.MSG_PEEK):
                    break
                await asyncio.sleep(0)
        except BlockingIOError:  # There is nothing that the event loop has not taken.
            return True
        except OSError:
            pass
        return False

    async def exchange(self, head: Any, body: bytes) -> Answer:
        """Sends a request and waits for its answer (see `Connection.exchange`).

        Raises:
            OSError: the connection failed.
        """
        self._answer = asyncio.get_running_loop().create_future()
        self._steps = self._protocol.exchange(head, body)
        self._transport.write(next(self._steps))
        return await self._answer

    def _end(self, outcome: Answer | Exception) -> None:
        steps, self._steps = self._steps, None
        if steps is None or self._answer.done():
            return
        if isinstance(outcome, Answer):
            self._answer.set_result(outcome)
        else:
            self._answer.set_exception(outcome)

    def close(self) -> None:
        """Ends it, and the call under way."""
        self._transport.abort()

    shut_down = close
