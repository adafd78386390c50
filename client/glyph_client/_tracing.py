"""OpenTelemetry: one client span an attempt, with the trace handed on to the server."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from glyph_client._flows import Attempt, Interceptor

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider


def opentelemetry(provider: "TracerProvider | None" = None) -> Interceptor:
    """An interceptor that traces (needs the package opentelemetry-api: `pip install 'glyph-client[telemetry]'`).

    Example:
        >>> Client("localhost:8500", interceptors=[opentelemetry()])

    Args:
        provider: where spans go; the global provider if not given.
    """
    from opentelemetry import propagate, trace

    tracer = trace.get_tracer("glyph_client", tracer_provider=provider)

    @contextmanager
    def interceptor(attempt: Attempt[Any]) -> Iterator[None]:
        spec = getattr(attempt.request, "spec", None)
        attributes = {
            "server.address": attempt.transport.target,
            "glyph.model": "" if spec is None else spec.name,
            "glyph.attempt": attempt.number,
        }
        name = type(attempt.request).__name__.removesuffix("Request")
        with tracer.start_as_current_span(f"glyph {name}", kind=trace.SpanKind.CLIENT, attributes=attributes):
            propagate.inject(attempt.headers)
            yield

    return interceptor
