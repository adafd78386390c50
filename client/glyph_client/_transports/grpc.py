"""TensorFlow Serving over gRPC."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

import grpc
import grpc.aio

from glyph_client import _wire
from glyph_client._errors import CallError, Code, TargetError, call_error
from glyph_client._transports.base import TLS, Options
from glyph_client._types import Request, Response

_CHANNEL_OPTIONS: Final = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.lb_policy_name", "round_robin"),
    # The client retries by itself, within its deadline and budget.
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


class GrpcTransport:
    """A channel to one target; `dns:///name:port` balances over all addresses of the name."""

    def __init__(self, target: str, address: str, *, secure: bool, options: Options) -> None:
        self.target = target
        if secure:
            self._channel = grpc.secure_channel(address, _credentials(options.tls), options=_CHANNEL_OPTIONS)
        else:
            self._channel = grpc.insecure_channel(address, options=_CHANNEL_OPTIONS)
        self._metadata = _metadata(options.headers)
        self._compression = grpc.Compression.Gzip if options.compression else None
        self._calls: dict[type[Request], Any] = {
            kind: self._channel.unary_unary(method) for kind, method in _wire.METHODS.items()
        }

    def send(self, request: Request, *, timeout: float, headers: Mapping[str, str]) -> Response:
        """Sends a request and returns its response (see `Transport.send`)."""
        call = self._calls[type(request)]
        message = _wire.encode(request)
        metadata = self._metadata + _metadata(headers) if headers else self._metadata
        try:
            answer = call(message, timeout=timeout, metadata=metadata, compression=self._compression)
        except grpc.RpcError as error:
            raise _error(error) from error
        except ValueError as error:
            raise call_error("CANCELLED", "the client was closed") from error
        return _wire.decode(request, answer)

    def close(self) -> None:
        """Closes the channel; calls under way are cancelled."""
        self._channel.close()


class AsyncGrpcTransport:
    """The same for asyncio."""

    def __init__(self, target: str, address: str, *, secure: bool, options: Options) -> None:
        self.target = target
        if secure:
            self._channel = grpc.aio.secure_channel(address, _credentials(options.tls), options=_CHANNEL_OPTIONS)
        else:
            self._channel = grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS)
        self._metadata = _metadata(options.headers)
        self._compression = grpc.Compression.Gzip if options.compression else None
        self._calls: dict[type[Request], Any] = {
            kind: self._channel.unary_unary(method) for kind, method in _wire.METHODS.items()
        }

    async def send(self, request: Request, *, timeout: float, headers: Mapping[str, str]) -> Response:
        """Sends a request and returns its response (see `Transport.send`)."""
        call = self._calls[type(request)]
        message = _wire.encode(request)
        metadata = self._metadata + _metadata(headers) if headers else self._metadata
        try:
            answer = await call(message, timeout=timeout, metadata=metadata, compression=self._compression)
        except grpc.RpcError as error:
            raise _error(error) from error
        except grpc.aio.UsageError as error:
            raise call_error("CANCELLED", "the client was closed") from error
        return _wire.decode(request, answer)

    async def close(self) -> None:
        """Closes the channel; calls under way are cancelled."""
        await self._channel.close()


def _metadata(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple([(name.lower(), value) for name, value in headers.items()])


def _error(error: Any) -> CallError:
    code = cast("Code", error.code().name)
    retry_after = None
    for name, value in error.trailing_metadata() or ():
        try:
            if name == "retry-after":
                retry_after = float(value)
            elif name == "grpc-retry-pushback-ms":
                retry_after = float(value) / 1000
        except ValueError:
            continue  # Not a number: as if the server had not said.
    return call_error(code, error.details() or "no details", retry_after=retry_after)


def _credentials(tls: TLS) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(_read(tls.ca), _read(tls.key), _read(tls.certificate))


def _read(path: Path | str | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise TargetError(f"{path}: {error.strerror}. Give the path of a PEM file.") from error
