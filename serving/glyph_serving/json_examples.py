"""JSON classify and regress requests: features by name, as tf.Examples."""

from typing import Any

from tensorflow.core.example import feature_pb2
from tensorflow_serving.apis import input_pb2

from glyph_serving.errors import invalid_argument
from glyph_serving.json_document import decode_base64_object, format_error, is_base64, read_document, signature_name
from glyph_serving.json_value import MISSING, Object, type_name


def parse_examples(body: bytes) -> tuple[str, input_pb2.Input]:
    """Reads a classify or regress request.

    Args:
        body: The JSON text.

    Returns:
        The signature's name, "" for the default, and the examples.

    Raises:
        ServingError: INVALID_ARGUMENT for what cannot be read.
    """
    document = read_document(body)
    name = signature_name(document)
    given = input_pb2.Input()
    context = document.find(b"context")
    target = given.example_list.examples
    if context is not MISSING:
        _fill_example(context, given.example_list_with_context.context)
        target = given.example_list_with_context.examples
    examples = document.find(b"examples")
    if examples is MISSING:
        raise format_error(document, "When method is classify, key 'examples' is expected and was not found")
    if not isinstance(examples, list):
        raise format_error(document, "Expecting 'examples' value to be an list/array")
    if not examples:
        raise format_error(document, "'examples' value is an empty array")
    for example in examples:
        _fill_example(example, target.add())
    return name, given


def _fill_example(value: Any, example: Any) -> None:
    if not isinstance(value, Object):
        raise invalid_argument(f"Example must be JSON object but got JSON {type_name(value)}")
    for key, content in value:
        name = key.partition(b"\0")[0].decode("utf-8", "surrogateescape")
        feature = feature_pb2.Feature()
        for item in content if isinstance(content, list) else [content]:
            _add_feature_value(name, item, feature)
        if _is_text(name):
            example.features.feature[name].CopyFrom(feature)


def _add_feature_value(name: str, value: Any, feature: feature_pb2.Feature) -> None:
    if isinstance(value, bool | int):
        kind = "int64"
    elif isinstance(value, float):
        kind = "float"
    elif isinstance(value, bytes) or is_base64(value):
        kind = "bytes"
    else:
        raise invalid_argument(f"Feature: {name} has element with unexpected JSON type: {type_name(value)}")
    field = f"{kind}_list"
    present = feature.WhichOneof("kind")
    if present not in (None, field):
        expected = present.removesuffix("_list")
        raise invalid_argument(f"Unexpected element type in feature: {name} expecting type: {expected}")
    if kind == "int64" and value >= 2**63:
        raise invalid_argument(f"Feature: {name} has uint64_t element. Only int64_t is supported.")
    if isinstance(value, Object):
        value = decode_base64_object(value)
    getattr(feature, field).value.append(value)


def _is_text(name: str) -> bool:
    """Whether a name can be one of a tf.Example's features, which are UTF-8: another is none that a model asks for."""
    return not any("\ud800" <= character <= "\udfff" for character in name)
