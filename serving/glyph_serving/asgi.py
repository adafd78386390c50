"""What Envoy loads: the two ASGI applications of one server."""

from glyph_serving.signals import Signals

signals = Signals()
signals.start()

from glyph_serving.server import Server  # noqa: E402 (its import takes seconds, during which signals must be heard)

server = Server.from_environment()
signals.terminate = server.drain
signals.reload = server.reload
grpc = server.grpc
rest = server.rest
