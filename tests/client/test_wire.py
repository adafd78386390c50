"""The client's own messages mean on the wire what the stock stubs' mean, in both directions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from glyph_client import (
    ClassifyRequest,
    InputError,
    InvalidRequest,
    ModelConfig,
    ModelSpec,
    PredictRequest,
    ReloadRequest,
    ServerFault,
    StatusRequest,
    _codec,
    _json,
    _wire,
)
from glyph_client._lookalikes import Lookalikes
from glyph_client.protos import serving_pb2 as pb
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tensorflow_serving.apis import classification_pb2, get_model_status_pb2, model_management_pb2, predict_pb2

CLIENT = Path(__file__).resolve().parents[2] / "client"
NAMES = st.text("abcdefgh_", min_size=1, max_size=8)
NUMBERS = [np.dtype(kind) for kind in "f2,f4,f8,i1,i2,i4,i8,u1,u2,u4,u8,c8,c16,?".split(",")]  # noqa: SIM905
MEMORY = [np.dtype(kind) for kind in ("f4", "f8", "c8", "c16")]
PREDICT = PredictRequest(ModelSpec("m"), {})
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
STRINGS = st.builds(
    lambda items, rows: np.array(items * rows, object).reshape(rows, len(items)),
    st.lists(st.binary(max_size=9), max_size=4),
    st.integers(1, 3),
)
ARRAYS = st.one_of(hnp.arrays(st.sampled_from(NUMBERS), SHAPES), STRINGS)
few = settings(max_examples=60, deadline=None)


@few
@given(inputs=st.dictionaries(NAMES, ARRAYS, max_size=3), name=NAMES, version=st.none() | st.integers(0, 2**40))
def test_what_the_client_sends_the_stock_stubs_read(inputs: dict[str, Any], name: str, version: int | None) -> None:
    message = predict_pb2.PredictRequest.FromString(
        _wire.encode(PredictRequest(ModelSpec(name, version, None, "sig"), inputs, ("out",)))
    )
    assert (message.model_spec.name, message.model_spec.signature_name) == (name, "sig")
    assert (message.model_spec.version.value if message.model_spec.HasField("version") else None) == version
    assert list(message.output_filter) == ["out"]
    assert message.inputs.keys() == inputs.keys()
    for key, array in inputs.items():
        np.testing.assert_array_equal(tf.make_ndarray(message.inputs[key]), array)
        assert message.inputs[key].dtype == tf.as_dtype(array.dtype).as_datatype_enum


@few
@given(outputs=st.dictionaries(NAMES, ARRAYS, max_size=3), version=st.integers(1, 2**40), packed=st.booleans())
def test_what_a_server_with_stock_stubs_sends_the_client_reads(
    outputs: dict[str, Any], version: int, packed: bool
) -> None:
    response = predict_pb2.PredictResponse()
    response.model_spec.name = "m"
    response.model_spec.version.value = version
    for key, array in outputs.items():
        response.outputs[key].CopyFrom(tf.make_tensor_proto(array) if packed else typed(array))
    read: Any = _wire.decode(PredictRequest(ModelSpec("m"), {}), response.SerializeToString())
    assert read.spec.version == version
    assert read.outputs.keys() == outputs.keys()
    for key, array in outputs.items():
        np.testing.assert_array_equal(read.outputs[key], array)
        assert read.outputs[key].dtype == array.dtype


@few
@given(data=st.data(), packed=st.booleans())
def test_answers_that_differ_in_their_values_alone_are_read_without_being_parsed(
    data: st.DataObject, packed: bool
) -> None:
    shapes = data.draw(st.dictionaries(NAMES, st.tuples(st.sampled_from(MEMORY), SHAPES), max_size=3))

    def answer() -> tuple[dict[str, Any], bytes]:
        outputs = {name: data.draw(hnp.arrays(dtype, shape)) for name, (dtype, shape) in shapes.items()}
        outputs["label"] = np.array([data.draw(st.binary(min_size=3, max_size=3)) for _ in range(2)], object)
        return outputs, answer_message(outputs, packed=packed)

    outputs, message = answer()
    as_parsed = {name: _codec.decode(tensor) for name, tensor in pb.PredictResponse.FromString(message).outputs.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_wire, "_LOOKALIKES", Lookalikes())
        _wire.decode(PREDICT, answer()[1])
        if all(0 not in shape for _, shape in shapes.values()):
            patch.setattr(pb, "PredictResponse", None)
        read: Any = _wire.decode(PREDICT, message)
    assert read.spec == ModelSpec("m", 7)
    assert read.outputs.keys() == outputs.keys()
    for name, array in outputs.items():
        np.testing.assert_array_equal(read.outputs[name], array)
        np.testing.assert_array_equal(read.outputs[name], as_parsed[name])
        assert (read.outputs[name].dtype, read.outputs[name].flags.writeable) == (
            as_parsed[name].dtype,
            as_parsed[name].flags.writeable,
        )


def test_an_answer_that_differs_in_more_than_values_is_parsed() -> None:
    def read(value: float, version: int, name: str) -> Any:
        message = answer_message({name: np.array([value], np.float32)}, version=version)
        response: Any = _wire.decode(PREDICT, message)
        return response.outputs[name].tolist(), response.spec.version

    answers = [(0.5, 7, "x"), (0.25, 7, "x"), (0.5, 8, "x"), (0.25, 8, "x"), (0.5, 8, "y"), (1.0, 8, "x")]
    for value, version, name in answers:
        assert read(value, version, name) == ([value], version)


@pytest.mark.parametrize(
    "outputs",
    [
        pytest.param(pb.PredictResponse(outputs={"x": pb.TensorProto(dtype=pb.DT_INT32, int_val=[5])}), id="varints"),
        pytest.param(pb.PredictResponse(outputs={"": pb.TensorProto(dtype=pb.DT_INT32, int_val=[5])}), id="no name"),
        pytest.param(b"\n\x0c\n\x01x\x12\x07\x08\x01\x2d\x00\x00\x80\x3f\x12\x00", id="not packed"),
        pytest.param(
            pb.PredictResponse(
                outputs={"x": pb.TensorProto(dtype=pb.DT_INT8, tensor_content=b"\x05", float_val=[1.0])}
            ),
            id="two fields",
        ),
        pytest.param(
            2
            * pb.PredictResponse(
                outputs={"x": pb.TensorProto(dtype=pb.DT_INT8, tensor_content=b"\x05")}
            ).SerializeToString(),
            id="twice",
        ),
        pytest.param(
            pb.PredictResponse(
                outputs={
                    "x": pb.TensorProto(
                        dtype=pb.DT_STRING,
                        tensor_shape=pb.TensorShapeProto(dim=[pb.TensorShapeProto.Dim(size=20)]),
                        string_val=[b"a"] * 20,
                    )
                }
            ),
            id="many strings",
        ),
    ],
)
def test_an_unusual_answer_is_parsed_each_time(outputs: pb.PredictResponse | bytes) -> None:
    message = outputs if isinstance(outputs, bytes) else outputs.SerializeToString()
    lookalikes = Lookalikes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_wire, "_LOOKALIKES", lookalikes)
        for _ in range(2):
            read: Any = _wire.decode(PREDICT, message)
            assert len(read.outputs) == 1
            assert lookalikes.read(PREDICT.spec, message) is None


def test_layouts_do_not_pile_up() -> None:
    for length in range(300):
        array = np.zeros(length + 1, np.float32)
        for value in (1.0, 2.0):
            array[:] = value
            read: Any = _wire.decode(PREDICT, answer_message({"x": array}))
            np.testing.assert_array_equal(read.outputs["x"], array)
    assert len(_wire._LOOKALIKES._layouts) <= 256


def answer_message(outputs: dict[str, Any], *, version: int = 7, packed: bool = False) -> bytes:
    response = predict_pb2.PredictResponse()
    response.model_spec.name = "m"
    response.model_spec.version.value = version
    for key, array in outputs.items():
        response.outputs[key].CopyFrom(tf.make_tensor_proto(array) if packed else typed(array))
    message: bytes = response.SerializeToString(deterministic=True)
    return message


def typed(array: Any) -> Any:
    """As a server without tensor content sends it."""
    tensor = tf.make_tensor_proto(np.zeros(0, array.dtype), shape=None if array.size == 0 else (0,))
    tensor.ClearField("tensor_content")
    tensor.tensor_shape.CopyFrom(tf.TensorShape(array.shape).as_proto())
    flat = array.ravel()
    match array.dtype.kind, array.dtype.name:
        case "O", _:
            tensor.string_val.extend(flat)
        case "c", name:
            field = tensor.scomplex_val if name == "complex64" else tensor.dcomplex_val
            field.extend(flat.view("f4" if name == "complex64" else "f8"))
        case "b", _:
            tensor.bool_val.extend(flat)
        case _, "float16":
            tensor.half_val.extend(flat.view(np.uint16))
        case _, ("float32" | "float64" | "int64" | "uint32" | "uint64") as name:
            field_of = {"float32": "float_val", "float64": "double_val"}
            getattr(tensor, field_of.get(name, f"{name}_val")).extend(flat)
        case _:
            tensor.int_val.extend(flat)
    return tensor


@given(
    examples=st.lists(
        st.dictionaries(
            NAMES,
            st.one_of(
                st.binary(),
                st.text(),
                st.integers(-(2**63), 2**63 - 1),
                st.floats(width=32, allow_nan=False),
                st.lists(st.binary(), min_size=1),
                hnp.arrays(np.int64, st.integers(1, 3)),
                st.lists(st.floats(width=32, allow_nan=False), min_size=1),
            ),
            max_size=3,
        ),
        max_size=3,
    )
)
@few
def test_examples_reach_the_stock_stubs(examples: list[dict[str, Any]]) -> None:
    request = ClassifyRequest(ModelSpec("m", label="stable"), examples, context={"all": [1, 2]})
    message = classification_pb2.ClassificationRequest.FromString(_wire.encode(request))
    assert message.model_spec.version_label == "stable"
    context = message.input.example_list_with_context.context.features.feature
    assert list(context["all"].int64_list.value) == [1, 2]
    for read, sent in zip(message.input.example_list_with_context.examples, examples, strict=True):
        for name, value in sent.items():
            feature = read.features.feature[name]
            got = list(getattr(feature, feature.WhichOneof("kind")).value)
            wanted = list(value) if isinstance(value, list | np.ndarray) else [value]
            assert got == [each.encode() if isinstance(each, str) else each for each in wanted]


def test_a_configuration_reaches_the_stock_stubs() -> None:
    models = [
        ModelConfig("a", "/a", "latest", {"stable": 1}),
        ModelConfig("b", "/b", "all"),
        ModelConfig("c", "/c", 2),
        ModelConfig("d", "/d", [3, 5]),
    ]
    message = model_management_pb2.ReloadConfigRequest.FromString(_wire.encode(ReloadRequest(models)))
    a, b, c, d = message.config.model_config_list.config
    assert (a.name, a.base_path, a.model_platform, dict(a.version_labels)) == ("a", "/a", "tensorflow", {"stable": 1})
    assert not a.HasField("model_version_policy")
    assert b.model_version_policy.WhichOneof("policy_choice") == "all"
    assert c.model_version_policy.latest.num_versions == 2
    assert list(d.model_version_policy.specific.versions) == [3, 5]


def test_a_status_with_an_unknown_code_is_unknown() -> None:
    message = get_model_status_pb2.GetModelStatusResponse()
    for number in (0, 5, 77):
        message.model_version_status.add(version=number, state=50).status.error_code = min(number, 16)
    read: Any = _wire.decode(StatusRequest(ModelSpec("m")), message.SerializeToString())
    assert [each.error_code for each in read.versions] == ["OK", "NOT_FOUND", "UNAUTHENTICATED"]
    raw = b"\x0a\x06\x08\x01\x10\x32\x1a\x02" + b"\x08\x63"
    odd: Any = _wire.decode(StatusRequest(ModelSpec("m")), b"\x0a\x08" + raw[2:])
    assert odd.versions[0].error_code == "UNKNOWN"


def test_bfloat16_is_written_from_ml_dtypes_and_read_as_float32() -> None:
    array = np.array([1.5, -2.25, np.inf], ml_dtypes.bfloat16)
    tensor = _codec.encode(array)
    np.testing.assert_array_equal(tf.make_ndarray(tf.make_tensor_proto(array)), array)
    read = _codec.decode(tensor)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, array.astype(np.float32))


def test_big_endian_and_strided_arrays_are_sent_in_the_wires_order() -> None:
    array = np.arange(12, dtype=">i4").reshape(3, 4).T[::2]
    np.testing.assert_array_equal(_codec.decode(_codec.encode(array)), array)


def test_bytes_in_lists_keep_the_zeros_at_their_end() -> None:
    assert list(_codec.encode(_codec.as_array([b"GIF\0", b"\0"])).string_val) == [b"GIF\0", b"\0"]
    assert list(_codec.encode(_codec.as_array([b"\xff\0", "é"], "string")).string_val) == [b"\xff\0", "é".encode()]


def test_text_is_sent_as_utf8() -> None:
    assert list(_codec.encode(np.array(["é", "7"])).string_val) == ["é".encode(), b"7"]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([{}], object), r"must hold bytes or str only. Received: \{\}"),
        (np.array(["2026-01-01"], "M8[D]"), r"type datetime64\[D\] cannot be sent. Received: shape \[1\]"),
    ],
)
def test_what_tensorflow_has_no_type_for_is_refused(array: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        _codec.encode(array)


DIM = pb.TensorShapeProto.Dim


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (pb.TensorProto(dtype=pb.DT_VARIANT), "NumPy has no array for a tensor of type 21"),
        (pb.TensorProto(dtype=pb.DT_FLOAT, tensor_content=b"12345678"), r"float32 \[\] cannot hold 2 values"),
        (pb.TensorProto(dtype=pb.DT_FLOAT, tensor_content=b"123"), "cannot hold 0.75 values"),
        (
            pb.TensorProto(dtype=pb.DT_FLOAT, tensor_shape=pb.TensorShapeProto(dim=[DIM(size=-2)])),
            r"cannot have the shape \[-2\]",
        ),
        (pb.TensorProto(dtype=pb.DT_STRING, string_val=[b"a", b"b"]), "1 strings cannot hold 2"),
    ],
)
def test_an_answer_that_contradicts_itself_is_a_fault_of_the_server(tensor: pb.TensorProto, message: str) -> None:
    answer = pb.PredictResponse(outputs={"x": tensor}).SerializeToString()
    with pytest.raises(ServerFault, match=f"not understood: .*{message}"):
        _wire.decode(PredictRequest(ModelSpec("m"), {}), answer)


def test_a_configuration_that_the_server_reports_as_refused_is_an_error() -> None:
    answer = pb.ReloadConfigResponse(status=pb.StatusProto(error_code=9, error_message="no such path"))
    with pytest.raises(InvalidRequest, match="no such path"):
        _wire.decode(ReloadRequest([]), answer.SerializeToString())


def test_a_message_that_is_none_is_a_fault_of_the_server() -> None:
    with pytest.raises(ServerFault, match="not understood"):
        _wire.decode(PredictRequest(ModelSpec("m"), {}), b"\xff\xff\xff")


def test_a_typed_field_repeats_its_last_value_and_an_empty_one_is_zeros() -> None:
    shape = pb.TensorShapeProto(dim=[DIM(size=3)])
    read = _codec.decode(pb.TensorProto(dtype=pb.DT_INT32, tensor_shape=shape, int_val=[4, 5]))
    np.testing.assert_array_equal(read, [4, 5, 5])
    np.testing.assert_array_equal(_codec.decode(pb.TensorProto(dtype=pb.DT_INT32, tensor_shape=shape)), [0, 0, 0])
    floats = pb.TensorProto(dtype=pb.DT_FLOAT, tensor_shape=shape, float_val=[0.5, 1.5])
    np.testing.assert_array_equal(_codec.decode(floats), np.array([0.5, 1.5, 1.5], np.float32))
    np.testing.assert_array_equal(_codec.decode(pb.TensorProto(dtype=pb.DT_DOUBLE, tensor_shape=shape)), [0, 0, 0])
    complex_ones = pb.TensorProto(dtype=pb.DT_COMPLEX64, tensor_shape=shape, scomplex_val=[1, 2])
    np.testing.assert_array_equal(_codec.decode(complex_ones), np.array([1 + 2j] * 3, np.complex64))
    one_by_one = pb.TensorProto.FromString(b"\x08\x01\x12\x04\x12\x02\x08\x02\x2d\x00\x00\x80\x3f\x2d\x00\x00\x00\x40")
    np.testing.assert_array_equal(_codec.decode(one_by_one), np.array([1, 2], np.float32))
    strings = pb.TensorProto(dtype=pb.DT_STRING, tensor_shape=shape, string_val=[b"a", b"b"])
    assert _codec.decode(strings).tolist() == [b"a", b"b", b"b"]


@pytest.mark.parametrize("value", [{}, [[1.0]], [1, "a"], None])
def test_a_feature_is_bytes_text_or_numbers(value: Any) -> None:
    with pytest.raises(InputError, match="feature 'f' of an example must be"):
        _wire.encode(ClassifyRequest(ModelSpec("m"), [{"f": value}]))


@pytest.mark.parametrize("value", [[np.float32(1.5)], np.array([np.float32(1.5)], object), (np.float64(1.5),)])
def test_numpys_numbers_in_lists_are_numbers(value: Any) -> None:
    assert _wire.feature_values("f", value) == [1.5]


@pytest.mark.parametrize("encode", [_wire.encode, _json.encode])
@pytest.mark.parametrize(
    ("example", "received"),
    [
        ({"f": 2**70}, "'f'.* 64 bits. Received: 1180591620717411303424"),
        ({"f": np.array([2**63], np.uint64)}, "Received: 9223372036854775808"),
        ({"f": [1.5, 10**400]}, "Received: 1000"),
        ({"f": ["a", "\ud800"]}, r"Received: '\\ud800'"),
        ({"\ud800": 1}, r"Received: '\\ud800'"),
    ],
)
def test_a_value_that_the_protocol_has_no_room_for_is_named(encode: Any, example: Any, received: str) -> None:
    with pytest.raises(InputError, match=received):
        encode(ClassifyRequest(ModelSpec("m"), [example]))


@pytest.mark.parametrize("config", [ModelConfig("a", "/a", labels={"stable": 2**70}), ModelConfig("a", "/\udcff")])
def test_a_configuration_that_the_protocol_has_no_room_for_is_shown(config: ModelConfig) -> None:
    with pytest.raises(InputError, match=r"a configuration cannot be sent .*Received: \[ModelConfig\(name='a'"):
        _wire.encode(ReloadRequest([config]))


@pytest.mark.parametrize(
    ("spec", "received"),
    [
        ({"version": 2**70}, "a version is a number of 64 bits. Received: 1180591620717411303424"),
        ({"label": "\ud800"}, r"Received: '\\ud800'"),
        ({"name": "\udcff"}, r"Received: '\\udcff'"),
        ({"signature": "\ud800"}, r"Received: '\\ud800'"),
    ],
)
def test_a_model_that_the_protocol_has_no_room_for_is_named(spec: dict[str, Any], received: str) -> None:
    with pytest.raises(InputError, match=received):
        ModelSpec(**{"name": "m", **spec})


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (1.5, "float32"),
        ([1, 2], "int32"),
        (2**40, "int64"),
        (["a"], "str32"),
        ([b"a"], "object"),
        (np.float64(1), "float64"),
    ],
)
def test_pythons_numbers_take_tensorflows_default_types(value: Any, dtype: str) -> None:
    assert _codec.as_array(value).dtype.name == dtype


def test_the_compiled_messages_are_up_to_date(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--python_out={tmp_path}", f"--pyi_out={tmp_path}"]
    subprocess.run([*command, "glyph_client/protos/serving.proto"], cwd=CLIENT, check=True)
    for name in ("serving_pb2.py", "serving_pb2.pyi"):
        path = Path("glyph_client/protos") / name
        assert (CLIENT / path).read_text() == (tmp_path / path).read_text(), "compile it again: see client/README.md"
