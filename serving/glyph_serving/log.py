"""What the server says on stderr, as lines for people or as JSON for machines."""

import json
import logging
from datetime import UTC, datetime

LOGGER = logging.getLogger("glyph_serving")
TEXT, JSON = "text", "json"


def configure(log_format: str) -> None:
    """Has the server's messages, and Python's warnings, written to stderr.

    Args:
        log_format: ``text`` or ``json``, an object a line.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_Json() if log_format == JSON else _Text())
    for logger in (LOGGER, logging.getLogger("py.warnings")):
        logger.handlers = [handler]
        logger.propagate = False
    LOGGER.setLevel(logging.INFO)
    logging.captureWarnings(True)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        request = getattr(record, "request_id", "")
        lines = f"glyph-serve: {level}{record.getMessage()}" + (f" (request {request})" if request else "")
        return f"{lines}\n{self.formatException(record.exc_info)}" if record.exc_info else lines


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        if request := getattr(record, "request_id", ""):
            entry["request_id"] = request
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)
