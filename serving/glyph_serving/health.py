"""grpc.health.v1.Health, and whether the server is starting, serving or draining."""

from collections.abc import Callable
from enum import IntEnum

from glyph_serving.errors import Code, ServingError
from glyph_serving.schema import message_classes

_MESSAGES = message_classes(
    "grpc.health.v1",
    {"HealthCheckRequest": [("service", 1, "string")], "HealthCheckResponse": [("status", 1, "int32")]},
)
# The genuine server registers its services without their package; the full names are what clients ask for.
SERVICES = frozenset(
    {
        "",
        "ModelService",
        "PredictionService",
        "tensorflow.serving.ModelService",
        "tensorflow.serving.PredictionService",
    }
)


class ServingStatus(IntEnum):
    """HealthCheckResponse.ServingStatus."""

    SERVING = 1
    NOT_SERVING = 2


class Health:
    """What health checks are told.

    Args:
        ready: Whether every configured model has an available version.
    """

    def __init__(self, ready: Callable[[], bool]) -> None:
        self._ready = ready
        self.draining = False

    @property
    def serving(self) -> bool:
        """Whether requests are taken and every model can answer them."""
        return not self.draining and self._ready()

    async def check(self, payload: bytes, _deadline: float) -> bytes:
        """Answers grpc.health.v1.Health/Check.

        Raises:
            ServingError: NOT_FOUND for a service that is not known.
        """
        request = _MESSAGES["HealthCheckRequest"].FromString(payload)
        service: str = getattr(request, "service")  # noqa: B009 (the class is made at run time)
        if service not in SERVICES:
            raise ServingError(Code.NOT_FOUND, f"unknown service {service}")
        status = ServingStatus.SERVING if self.serving else ServingStatus.NOT_SERVING
        return _MESSAGES["HealthCheckResponse"](status=status).SerializeToString()
