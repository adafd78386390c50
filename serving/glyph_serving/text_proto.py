"""Files that hold a protobuf in its text form, and the messages that only occur there."""

from pathlib import Path
from typing import Any

from google.protobuf import text_format
from google.protobuf.message import Message

from glyph_serving.errors import Code, ServingError, invalid_argument
from glyph_serving.schema import message_classes

_INT64 = "google.protobuf.Int64Value"
_CODES = (
    (FileNotFoundError, Code.NOT_FOUND),
    (IsADirectoryError, Code.NOT_FOUND),
    (NotADirectoryError, Code.FAILED_PRECONDITION),
    (PermissionError, Code.PERMISSION_DENIED),
)

# Messages of tensorflow/serving's sources that the package tensorflow-serving-api leaves out.
MESSAGES = message_classes(
    "tensorflow.serving",
    {
        "BatchingParameters": [
            ("max_batch_size", 1, _INT64),
            ("batch_timeout_micros", 2, _INT64),
            ("max_enqueued_batches", 3, _INT64),
            ("num_batch_threads", 4, _INT64),
            ("thread_pool_name", 5, "google.protobuf.StringValue"),
            ("allowed_batch_sizes", 6, "repeated int64"),
            ("pad_variable_length_inputs", 7, "bool"),
            ("enable_large_batch_splitting", 8, "google.protobuf.BoolValue"),
            ("max_execution_batch_size", 9, _INT64),
        ],
        "PrometheusConfig": [("enable", 1, "bool"), ("path", 2, "string")],
        "MonitoringConfig": [("prometheus_config", 1, "PrometheusConfig")],
        "SSLConfig": [
            ("server_key", 1, "string"),
            ("server_cert", 2, "string"),
            ("custom_ca", 3, "string"),
            ("client_verify", 4, "bool"),
        ],
    },
)


def read_message(path: str, message: Message) -> Any:
    """Fills a message from a text protobuf file.

    Raises:
        ServingError: As ``read_file``; INVALID_ARGUMENT, too, if it cannot be parsed.
    """
    try:
        return text_format.Parse(read_file(path).decode(), message)
    except (UnicodeDecodeError, text_format.ParseError) as error:
        raise invalid_argument(f"Invalid protobuf file: '{path}'", str(error)) from None


def read_file(path: str) -> bytes:
    """What is in a file that a flag names.

    Raises:
        ServingError: It cannot be read, or is empty; with the code and in the words that the genuine server has for it.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        code = next((code for kind, code in _CODES if isinstance(error, kind)), Code.INVALID_ARGUMENT)
        reason = "No such device" if isinstance(error, IsADirectoryError) else error.strerror
        raise ServingError(code, f"{path}; {reason}", error.strerror or "") from None
    if not content:
        raise invalid_argument(f"{path}; Invalid argument", "the file is empty, or a pipe that was read before")
    return content
