"""The server's side of HTTP/2, by the library h2, which accepts nothing that the protocol forbids."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from glyph_client import AsyncClient, CallError, Client, Retry
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, RequestReceived, StreamEnded
from h2.exceptions import StreamClosedError
from h2.settings import SettingCodes, Settings

from tests.client.stand_ins import REST_STATUS, STATUS

OK = (("grpc-status", "0"),)
HEADERS = ((":status", "200"), ("content-type", "application/grpc"))


@dataclass
class Asked:
    """A request as it came."""

    stream: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


def framed(message: bytes, *, compressed: bool = False) -> bytes:
    """A message as gRPC sends it."""
    return bytes([compressed]) + len(message).to_bytes(4, "big") + message


class Conversation:
    """One connection that a client has opened.

    Attributes:
        h2: the state; `flush` sends what was done to it.
        events: what came so far.
    """

    def __init__(self, connection: socket.socket, settings: dict[SettingCodes, int]) -> None:
        self.socket = connection
        self.events: list[Event] = []
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self.h2.local_settings = Settings(client=False, initial_values=settings)
        self.h2.initiate_connection()
        self.flush()

    def flush(self) -> None:
        self.socket.sendall(self.h2.data_to_send())

    def receive(self) -> list[Any]:
        """What came, which is acknowledged; nothing once the client has hung up."""
        data = self.socket.recv(65_536)
        events: list[Any] = self.h2.receive_data(data) if data else []
        for event in events:
            if isinstance(event, DataReceived) and event.flow_controlled_length:
                with contextlib.suppress(StreamClosedError):
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        self.flush()
        self.events += events
        return events

    def request(self) -> Asked:
        """The next request.

        Raises:
            EOFError: the client has hung up.
        """
        asked = Asked(0)
        while events := self.receive():
            for event in events:
                if isinstance(event, RequestReceived):
                    asked = Asked(event.stream_id, {str(name): str(value) for name, value in event.headers})
                elif isinstance(event, DataReceived):
                    asked.body += event.data
                elif isinstance(event, StreamEnded):
                    return asked
        raise EOFError

    def wait_for(self, kind: type[Event]) -> None:
        while events := self.receive():
            if any(isinstance(event, kind) for event in events):
                return
        raise EOFError

    def answer(
        self,
        asked: Asked,
        body: bytes,
        *,
        headers: tuple[tuple[str, str], ...] = HEADERS,
        trailers: tuple[tuple[str, str], ...] = OK,
    ) -> None:
        self.h2.send_headers(asked.stream, headers)
        if body:
            self.h2.send_data(asked.stream, body)
        if trailers:
            self.h2.send_headers(asked.stream, trailers, end_stream=True)
        else:
            self.h2.end_stream(asked.stream)
        self.flush()


class Peer:
    """A server on loopback; `script(conversation)` runs in a thread for each connection, on which nothing more is
    sent when it ends.

    Attributes:
        conversations: the connections so far, in order.
        errors: what their scripts raised, other than that the client had hung up.
    """

    def __init__(self, script: Callable[[Conversation], object], settings: dict[SettingCodes, int]) -> None:
        self.conversations: list[Conversation] = []
        self.errors: list[Exception] = []
        self._script = script
        self._settings = settings
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.target = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                thread = threading.Thread(target=self._converse, args=(connection,))
                self._threads.append(thread)
                thread.start()

    def _converse(self, connection: socket.socket) -> None:
        with connection:
            try:
                conversation = Conversation(connection, self._settings)
                self.conversations.append(conversation)
                self._script(conversation)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65_536):
                    pass
            except (EOFError, OSError):
                pass  # The client has hung up.
            except Exception as error:  # noqa: BLE001 (for the test to show)
                self.errors.append(error)

    def stop_listening(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def close(self) -> None:
        """Stops listening, and waits until the clients have hung up."""
        self.stop_listening()
        for thread in self._threads:
            thread.join()
        assert not self.errors, self.errors


@contextlib.contextmanager
def listening(script: Callable[[socket.socket], object]) -> Iterator[str]:
    """The address of a server on loopback; `script(connection)` runs in a thread for each connection."""

    def converse(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):  # The client has hung up.
            script(connection)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                sockets.append(listener.accept()[0])
                threads.append(threading.Thread(target=converse, args=sockets[-1:]))
                threads[-1].start()

    with socket.create_server(("127.0.0.1", 0), backlog=200) as listener:
        sockets, threads = [listener], [threading.Thread(target=accept)]
        threads[0].start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            for each in sockets:
                with contextlib.suppress(OSError):  # It is closed already.
                    each.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()


@contextlib.contextmanager
def full_listener() -> Iterator[str]:
    """The address of a server that takes no more connections, so that the system leaves further ones waiting."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def ask(target: str, times: int = 1, *, asynchronous: bool, **options: Any) -> list[Any]:
    """What came of so many calls with one client: the model's versions, or the error."""
    options = {"retry": Retry(1), "timeout": 60, **options}

    async def ask_all() -> list[Any]:
        async with AsyncClient(target, **options) as client:
            return [(await asyncio.gather(client.status(), return_exceptions=True))[0] for _ in range(times)]

    if asynchronous:
        return asyncio.run(ask_all())
    outcomes: list[Any] = []
    with Client(target, **options) as client:
        for _ in range(times):
            try:
                outcomes.append(client.status())
            except CallError as error:
                outcomes.append(error)
    return outcomes


def answers(conversation: Conversation) -> None:
    """A script: answers everything."""
    while True:
        conversation.answer(conversation.request(), framed(STATUS))


def answers_in_json(connection: socket.socket) -> None:
    """The same for `listening`, over REST."""
    while connection.recv(65_536):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(REST_STATUS), REST_STATUS))
