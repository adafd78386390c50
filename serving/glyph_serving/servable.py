"""A servable: one version of a SavedModel, loaded into a session whose signatures can be called."""

import ctypes
import gc
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2
from tensorflow.python.client import session as tf_session
from tensorflow.python.framework import dtypes, errors_impl, ops
from tensorflow.python.ops import gen_array_ops, gen_logging_ops, gen_math_ops
from tensorflow.python.platform import tf_logging
from tensorflow.python.saved_model import loader_impl

from glyph_serving.errors import Code, ServingError, from_tensorflow, invalid_argument
from glyph_serving.load_problem import check_index, load_problem
from glyph_serving.op_libraries import ADVICE

Array = npt.NDArray[Any]
Arrays = list[Array]

tf_logging.get_logger().setLevel("ERROR")  # no advice about TF1's session, which is used on purpose

DEFAULT_SIGNATURE = "serving_default"
CLASSIFY_METHOD = "tensorflow/serving/classify"
PREDICT_METHOD = "tensorflow/serving/predict"
REGRESS_METHOD = "tensorflow/serving/regress"
_INIT_OP = "__saved_model_init_op"
_VARIABLES = frozenset({"VarHandleOp", "VariableV2", "Variable"})  # operations

_MAX_STRING_RANK = 32  # a session's copy of a NumPy array that has more dimensions ends the process
# Kernels that index the dimensions of their input without looking at its rank: a tensor of another rank ends the
# process (tensor_format.h, "Check failed"), so graphs with one of these get the signature's rank and no other.
_UNCHECKED_RANK = ("Conv", "DepthwiseConv", "FusedConv", "MaxPool", "AvgPool", "FusedBatchNorm", "LRN", "QuantizedConv")


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a signature.

    Attributes:
        alias: Its name in the signature.
        tensor: Its name in the graph.
        dtype: TensorFlow's data type.
        shape: The dimensions, -1 where any size will do; None where the rank is not known either.
    """

    alias: str
    tensor: str
    dtype: dtypes.DType
    shape: tuple[int, ...] | None

    def fits(self, array: Array) -> bool:
        """Whether an array has this data type and this shape."""
        if array.dtype != self.numpy_dtype:
            return False
        wanted, given = self.shape, array.shape
        if wanted is None or (wanted[1:] == given[1:] and wanted[:1] == (-1,) and given):
            return True
        return len(wanted) == len(given) and all(want in (-1, have) for want, have in zip(wanted, given, strict=True))

    @cached_property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The dtype of arrays that hold it; strings are arrays of ``bytes`` objects. What none holds fits no array."""
        try:
            dtype: np.dtype[Any] = np.dtype(self.dtype.as_numpy_dtype)
        except KeyError:
            dtype = np.dtype([("none", np.void)])
        return dtype


@dataclass(frozen=True)
class Signature:
    """A signature that can be called.

    Attributes:
        name: Its key in the SavedModel.
        definition: Its SignatureDef.
        inputs: What it takes, by alias in alphabetical order.
        outputs: What it gives, by alias in alphabetical order.
        run: Takes the input arrays and gives the output arrays, both in those orders; raises ServingError.
        batched: Whether the first dimension of every input and output is the batch.
        check_rank: Whether an input of another rank than the signature's would end the process.
        check_method_name: Whether only requests that its method name is for may call it.
    """

    name: str
    definition: meta_graph_pb2.SignatureDef
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    run: Callable[[Sequence[Array]], Arrays]
    batched: bool
    check_rank: bool
    check_method_name: bool

    def fits(self, arrays: Sequence[Array]) -> bool:
        """Whether the inputs are of the data types and shapes that the signature declares."""
        return all(map(TensorSpec.fits, self.inputs.values(), arrays))

    def check(self, arrays: Sequence[Array]) -> None:
        """Raises INVALID_ARGUMENT for inputs that do not fit and that the graph would not take, or not survive."""
        specs = sorted(zip(self.inputs.values(), arrays, strict=True), key=lambda pair: pair[0].tensor)
        for position, (spec, array) in enumerate(specs):
            if array.dtype != spec.numpy_dtype:
                expected, received = type_text(spec.dtype), _received_type(array.dtype)
                raise invalid_argument(f"Expects arg[{position}] to be {expected} but {received} is provided")
            if self.check_rank and spec.shape is not None and array.ndim != len(spec.shape):
                expected, received = shape_text(spec.shape), shape_text(array.shape)
                raise invalid_argument(f"input {spec.alias} must have shape {expected}. Received: {received}")


@dataclass(frozen=True)
class Servable:
    """One loaded version of a model.

    Attributes:
        name: The model's name.
        version: The version's number.
        path: Where it was loaded from.
        signatures: What it can do, by key.
        signature_defs: All SignatureDefs of the SavedModel, by key.
        close: Frees it. No call may be running, and none may follow.
    """

    name: str
    version: int
    path: Path
    signatures: Mapping[str, Signature]
    signature_defs: Mapping[str, meta_graph_pb2.SignatureDef]
    close: Callable[[], None]


def load(
    name: str,
    version: int,
    path: Path,
    tags: Sequence[str] = ("serve",),
    session_config: config_pb2.ConfigProto | None = None,
    check_method_names: bool = False,
) -> Servable:
    """Loads one version of a model.

    Args:
        name: The model's name.
        version: The version's number.
        path: The folder with ``saved_model.pb``.
        tags: Which of its MetaGraphDefs.
        session_config: Thread pools and the like.
        check_method_names: Whether signatures answer only the requests that their method names are for.

    Raises:
        ServingError: With TensorFlow's own code and message.
    """
    if not (path / "saved_model.pb").exists() and not (path / "saved_model.pbtxt").exists():
        raise ServingError(
            Code.NOT_FOUND,
            "Specified file path does not appear to contain a SavedModel bundle (should have a file called "
            f"`saved_model.pb`)\nSpecified file path: {path}",
        )
    check_index(path)
    session = tf_session.Session(graph=ops.Graph(), config=session_config)
    try:
        with session.graph.as_default():
            meta_graph = _Loader(str(path)).load(session, list(tags))
        definitions = dict(meta_graph.signature_def)
        check_rank = _has_unchecked_rank(meta_graph.graph_def)
        signatures = {
            key: _signature(session, key, definition, check_rank, check_method_names)
            for key, definition in definitions.items()
            if definition.outputs
        }
    except errors_impl.OpError as error:
        session.close()
        problem = load_problem(path, tags) or from_tensorflow(error)
        advice = ADVICE if "Op type not registered" in problem.message else ""
        raise ServingError(problem.code, problem.message, advice) from error
    except (OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        session.close()
        raise load_problem(path, tags) or invalid_argument(f"{path} cannot be loaded: {error}") from error
    return Servable(name, version, path, signatures, definitions, session.close)


class _Loader(loader_impl.SavedModelLoader):  # type: ignore[misc]
    """TensorFlow's own, but that a graph without variables needs none on disk, as for the C++ loader.

    The latter would also load a graph with variables, and answer each request with an error, where they are missing.
    """

    def restore_variables(self, sess: tf_session.Session, saver: object, import_scope: str | None = None) -> None:
        """Restores the variables, if there are any."""
        has_none = all(operation.type not in _VARIABLES for operation in sess.graph.get_operations())
        if has_none and not Path(f"{self.variables_path}.index").exists():
            saver = None
        super().restore_variables(sess, saver, import_scope)


def _signature(
    session: tf_session.Session,
    name: str,
    definition: meta_graph_pb2.SignatureDef,
    check_rank: bool,
    check_method_name: bool,
) -> Signature:
    if name == _INIT_OP:
        operation = definition.outputs[_INIT_OP].name
        return Signature(name, definition, {}, {}, _no_output(operation), False, False, check_method_name)
    inputs = {alias: _spec(alias, definition.inputs[alias]) for alias in sorted(definition.inputs)}
    outputs = {alias: _spec(alias, definition.outputs[alias]) for alias in sorted(definition.outputs)}
    run = _run(session, name, definition, inputs, outputs)
    specs = [*inputs.values(), *outputs.values()]
    batched = all(spec.shape is None or (spec.shape and spec.shape[0] == -1) for spec in specs)
    return Signature(name, definition, inputs, outputs, run, batched, check_rank, check_method_name)


def _run(
    session: tf_session.Session,
    name: str,
    definition: meta_graph_pb2.SignatureDef,
    inputs: Mapping[str, TensorSpec],
    outputs: Mapping[str, TensorSpec],
) -> Callable[[Sequence[Array]], Arrays]:
    """What runs a signature. One that cannot be run says so when it is called: a model may have others."""
    for side, infos in (("input", definition.inputs), ("output", definition.outputs)):
        for alias, info in infos.items():
            if not info.name:
                kind = "sparse" if info.HasField("coo_sparse") else "composite"
                return _raising(
                    invalid_argument(
                        f'Signature "{name}" cannot be called: its {side} {alias} is a {kind} tensor, which a '
                        "TensorProto cannot hold. Export a signature with its components instead"
                    )
                )
    options = config_pb2.CallableOptions(
        feed=[spec.tensor for spec in inputs.values()], fetch=[_fetched(session, spec) for spec in outputs.values()]
    )
    options.run_options.inter_op_thread_pool = -1  # in the caller's thread: a hop to a pool costs as much as the model
    try:
        call = session._make_callable_from_options(options)
    except errors_impl.OpError as error:
        return _raising(from_tensorflow(error))

    def run(arrays: Sequence[Array]) -> Arrays:
        try:
            outputs: Arrays = list(call(*arrays))
        except errors_impl.OpError as error:
            raise from_tensorflow(error) from error
        except UnicodeDecodeError as error:  # what is to be told quotes bytes that are no text; its code is lost
            raise invalid_argument(bytes(error.object).decode(errors="replace")) from error
        return [_scalar_string(output) if isinstance(output, bytes) else output for output in outputs]

    def run_on_strings(arrays: Sequence[Array]) -> Arrays:
        for alias, array in zip(inputs, arrays, strict=True):
            if array.dtype.hasobject and array.ndim > _MAX_STRING_RANK:
                raise invalid_argument(
                    f"input {alias} holds strings, which can have at most {_MAX_STRING_RANK} dimensions. "
                    f"Received: {array.ndim}"
                )
        return run(arrays)

    return run_on_strings if any(spec.dtype == dtypes.string for spec in inputs.values()) else run


def _fetched(session: tf_session.Session, spec: TensorSpec) -> str:
    """What to fetch for an output: where it holds strings of any rank, it is looked at before it is copied."""
    if spec.dtype != dtypes.string or spec.shape is not None:
        return spec.tensor
    with session.graph.as_default():
        output = session.graph.get_tensor_by_name(spec.tensor)
        rank = gen_array_ops.rank(output)
        problem = f"output {spec.alias} holds strings, which can have at most {_MAX_STRING_RANK} dimensions. Received:"
        fits = gen_math_ops.less_equal(rank, _MAX_STRING_RANK)
        with ops.control_dependencies([gen_logging_ops._assert(fits, [problem, rank])]):
            return str(gen_array_ops.identity(output).name)


def _no_output(operation: str) -> Callable[[Sequence[Array]], Arrays]:
    """What running the signature that initializes a SavedModel comes to: its operation has no output to be fetched."""
    return _raising(
        invalid_argument(
            f"Tried to fetch data for '{operation}', which produces no output.  To run to a node but not fetch any "
            f"data, pass '{operation}' as an argument to the 'target_node_names' argument of the Session::Run API."
        )
    )


def _raising(error: ServingError) -> Callable[[Sequence[Array]], Arrays]:
    def run(_arrays: Sequence[Array]) -> Arrays:
        raise ServingError(error.code, error.message)

    return run


def _scalar_string(value: bytes) -> Array:
    """A string of rank 0, which a session gives as it is, as the array that everything else is."""
    array = np.empty((), object)
    array[()] = value
    return array


def _spec(alias: str, info: meta_graph_pb2.TensorInfo) -> TensorSpec:
    shape = None if info.tensor_shape.unknown_rank else tuple(dim.size for dim in info.tensor_shape.dim)
    return TensorSpec(alias, info.name, dtypes.as_dtype(info.dtype or types_pb2.DT_VARIANT), shape)


def _has_unchecked_rank(graph: Any) -> bool:
    if os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "0":
        return False  # it is oneDNN's kernels that do not look
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return any(node.op.startswith(_UNCHECKED_RANK) for node in nodes)


def type_text(dtype: dtypes.DType) -> str:
    """TensorFlow's C++ name of a data type."""
    return {"float32": "float", "float64": "double", "float16": "half"}.get(dtype.name, str(dtype.name))


def _received_type(dtype: np.dtype[Any]) -> str:
    return dtype.names[0] if dtype.names else type_text(dtypes.as_dtype(dtype))


def shape_text(shape: Sequence[int]) -> str:
    """TensorFlow's way to write a shape."""
    return "[" + ",".join("?" if size == -1 else str(size) for size in shape) + "]"


def spare_from_collection() -> None:
    """Keeps all objects that live now out of garbage collections.

    TensorFlow's are so many that looking through them takes 50 ms, during which no request is answered.
    """
    gc.freeze()


def release_memory() -> None:
    """Gives freed memory back to the operating system after a servable was closed."""
    gc.unfreeze()
    gc.collect()
    spare_from_collection()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
