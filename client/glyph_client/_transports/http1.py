"""One HTTP/1.1 connection that carries one request at a time, without its socket, in the manner of `http2.py`."""

from collections.abc import Iterator
from typing import Final

import h11

from glyph_client._transports.exchange import Answer, Broken, Exchange

_LONGEST_HEAD: Final = 262_144  # bytes of headers


class Connection:
    """The state of a connection (see `exchange.Connection`)."""

    def __init__(self) -> None:
        self.usable = True
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_LONGEST_HEAD)

    def exchange(self, head: h11.Request, body: bytes) -> Exchange:
        """Sends a request and reads its answer (see `exchange.Connection.exchange`)."""
        parts = (head, h11.Data(body), h11.EndOfMessage())
        to_send = b"".join(self._http.send(part) or b"" for part in parts)
        answer = Answer()
        while True:
            received = yield to_send
            to_send = b""
            if not received and self._http.their_state is h11.SEND_RESPONSE:
                raise Broken("the server closed the connection")
            for event in self._events(received):
                if isinstance(event, h11.Response):
                    answer.headers = _headers(event)
                elif isinstance(event, h11.Data):
                    answer.body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    self._end()
                    return answer

    def idle(self, received: bytes) -> bytes:  # noqa: ARG002
        """Nothing can come between two requests but the connection's end, or an answer to none."""
        raise Broken("the server closed the connection")

    def owed(self) -> bytes:
        """Nothing ever."""
        return b""

    def _events(self, received: bytes) -> Iterator[object]:
        try:
            self._http.receive_data(received)
            while (event := self._http.next_event()) is not h11.NEED_DATA:
                yield event
        except h11.RemoteProtocolError as error:
            raise Broken(f"the answer is no HTTP/1.1, or not a whole one: {error}") from error

    def _end(self) -> None:
        if self._http.their_state is h11.DONE and not self._http.trailing_data[0]:
            self._http.start_next_cycle()
        else:
            self.usable = False


def _headers(response: h11.Response) -> dict[str, str]:
    named = {name.decode("latin-1"): value.decode("latin-1") for name, value in response.headers}
    return {":status": str(response.status_code), **named}
