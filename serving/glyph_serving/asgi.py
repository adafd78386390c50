"""What Envoy loads: the two ASGI applications of one server."""

from glyph_serving.signals import Signals
from glyph_serving.tensorflow_core import import_core

signals = Signals()
signals.start()
import_core()

from glyph_serving.server import Server  # noqa: E402 (its import takes seconds, during which signals must be heard)

server = Server.from_environment()
signals.terminate = server.drain
signals.reload = server.reload
grpc = server.grpc
rest = server.rest
