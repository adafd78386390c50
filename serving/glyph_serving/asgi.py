"""What Envoy loads: the ASGI applications of one server."""

import gc
import sys

from glyph_serving.signals import Signals
from glyph_serving.tensorflow_core import import_core

signals = Signals()
signals.start()
import_core()
gc.set_threshold(20_000)  # objects, where it is 700: a single picture as JSON is a thousand lists
sys.setswitchinterval(0.0005)  # seconds; the usual 5 ms would be what an engine thread waits to hand in its results

from glyph_serving.server import Server  # noqa: E402 (its import takes seconds, during which signals must be heard)

server = Server.from_environment()
signals.heed(server.drain, server.reload)
grpc = server.grpc
rest = server.rest
fleet = server.fleet
