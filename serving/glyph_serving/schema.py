"""Message classes for protobuf definitions that no installed package carries."""

from collections.abc import Mapping, Sequence

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2
from google.protobuf.message import Message

Field = tuple[str, int, str]  # name, number, type: "string", "repeated Other", "google.protobuf.Int64Value"

_Proto = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "bool": _Proto.TYPE_BOOL,
    "bytes": _Proto.TYPE_BYTES,
    "int32": _Proto.TYPE_INT32,
    "int64": _Proto.TYPE_INT64,
    "string": _Proto.TYPE_STRING,
}


def message_classes(package: str, messages: Mapping[str, Sequence[Field]]) -> dict[str, type[Message]]:
    """Builds message classes in a descriptor pool of their own; every field knows whether it was set.

    Args:
        package: The protobuf package.
        messages: The fields of every message, by name.

    Returns:
        The class of every message, by name.
    """
    file = descriptor_pb2.FileDescriptorProto(name=f"glyph_serving/{package}.proto", package=package, syntax="proto2")
    file.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    for message_name, fields in messages.items():
        message = file.message_type.add(name=message_name)
        for name, number, kind in fields:
            label = _Proto.LABEL_REPEATED if kind.startswith("repeated ") else _Proto.LABEL_OPTIONAL
            kind = kind.removeprefix("repeated ")
            field = message.field.add(name=name, number=number, label=label)
            if kind in _SCALARS:
                field.type = _SCALARS[kind]
            else:
                field.type = _Proto.TYPE_MESSAGE
                field.type_name = f".{package}.{kind}" if kind in messages else f".{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}")) for name in messages}
