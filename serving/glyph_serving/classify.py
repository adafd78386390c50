"""Classify, Regress and MultiInference: signatures that take serialized tf.Examples."""

from collections.abc import Container, Sequence

import numpy as np
from google.protobuf import text_format
from tensorflow.core.framework import types_pb2
from tensorflow.python.framework import dtypes
from tensorflow_serving.apis import classification_pb2, inference_pb2, input_pb2, model_pb2, regression_pb2

from glyph_serving import inference
from glyph_serving.errors import Code, ServingError, invalid_argument
from glyph_serving.harness import Loaded
from glyph_serving.manager import Manager
from glyph_serving.servable import (
    CLASSIFY_METHOD,
    DEFAULT_SIGNATURE,
    REGRESS_METHOD,
    Array,
    Arrays,
    Servable,
    Signature,
    shape_text,
)


async def classify(
    manager: Manager, request: classification_pb2.ClassificationRequest, deadline: float
) -> classification_pb2.ClassificationResponse:
    """Answers a ClassificationRequest.

    Raises:
        ServingError: What is wrong with the request, or what the run ended with.
    """
    inference.check_has_spec(request)
    loaded = inference.find(manager, request.model_spec)
    signature, examples = prepare(loaded.servable, request.model_spec, CLASSIFY_METHOD, request.input)
    outputs = await loaded.batchers[signature.name].run([examples], deadline)
    response = classification_pb2.ClassificationResponse(model_spec=_answered(loaded, signature))
    response.result.CopyFrom(classification_result(signature, outputs, len(examples)))
    return response


async def regress(
    manager: Manager, request: regression_pb2.RegressionRequest, deadline: float
) -> regression_pb2.RegressionResponse:
    """Answers a RegressionRequest.

    Raises:
        ServingError: What is wrong with the request, or what the run ended with.
    """
    inference.check_has_spec(request)
    loaded = inference.find(manager, request.model_spec)
    signature, examples = prepare(loaded.servable, request.model_spec, REGRESS_METHOD, request.input)
    outputs = await loaded.batchers[signature.name].run([examples], deadline)
    response = regression_pb2.RegressionResponse(model_spec=_answered(loaded, signature))
    response.result.CopyFrom(regression_result(signature, outputs, len(examples)))
    return response


async def multi_inference(
    manager: Manager, request: inference_pb2.MultiInferenceRequest, deadline: float
) -> inference_pb2.MultiInferenceResponse:
    """Answers a MultiInferenceRequest: several signatures of one model on the same examples.

    Raises:
        ServingError: What is wrong with the request, or what a run ended with.
    """
    first = request.tasks[0].model_spec if request.tasks else model_pb2.ModelSpec()
    loaded = inference.find(manager, first)
    tasks = prepare_tasks(loaded.servable, request)
    response = inference_pb2.MultiInferenceResponse()
    for task, (signature, examples) in zip(request.tasks, tasks, strict=True):
        outputs = await loaded.batchers[signature.name].run([examples], deadline)
        entry = response.results.add(model_spec=_answered(loaded, signature))
        answer = result(signature, task.method_name, outputs, len(examples))
        if isinstance(answer, classification_pb2.ClassificationResult):
            entry.classification_result.CopyFrom(answer)
        else:
            entry.regression_result.CopyFrom(answer)
    return response


def prepare_tasks(servable: Servable, request: inference_pb2.MultiInferenceRequest) -> list[tuple[Signature, Array]]:
    """As ``prepare``, for each of the tasks of a MultiInferenceRequest, which have their examples in common."""
    signatures: dict[str, Signature] = {}
    for task in request.tasks:
        signature = _task_signature(servable, request.tasks[0].model_spec.name, task, signatures)
        if any(signature.inputs["inputs"].tensor != one.inputs["inputs"].tensor for one in signatures.values()):
            raise invalid_argument("Input tensor must be the same for all Signatures.")
        signatures[signature.name] = signature
    examples = _examples(request.input)
    return [(signature, examples) for signature in signatures.values()]


def prepare(
    servable: Servable, spec: model_pb2.ModelSpec, method: str, given: input_pb2.Input
) -> tuple[Signature, Array]:
    """The signature that a request asks for, and its examples, serialized, as an array [N] of bytes.

    Raises:
        ServingError: INVALID_ARGUMENT for an unknown or unsuitable signature or an empty input.
    """
    name = spec.signature_name or DEFAULT_SIGNATURE
    signature = servable.signatures.get(name)
    if signature is None:
        raise invalid_argument(f"No signature was found with the name: {name}")
    _check(signature, method)
    return signature, _examples(given)


def _task_signature(
    servable: Servable, model_name: str, task: inference_pb2.InferenceTask, earlier: Container[str]
) -> Signature:
    """The signature of one task of a MultiInferenceRequest, none of those of the tasks before it."""
    if not task.model_spec.name:
        raise invalid_argument("Found ModelSpec with an empty model name.")
    if task.model_spec.name != model_name:
        raise invalid_argument("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
    name = task.model_spec.signature_name or DEFAULT_SIGNATURE
    if name in earlier:
        raise invalid_argument(f"Duplicate evaluation of signature: {name}")
    signature = servable.signatures.get(name)
    if signature is None:
        raise invalid_argument(f"Requested signature not found in model graph: {name}")
    _check(signature, task.method_name)
    return signature


def _check(signature: Signature, method: str) -> None:
    """Raises an error unless a signature can serve a method."""
    if method == CLASSIFY_METHOD:
        _check_classification(signature)
    elif method == REGRESS_METHOD:
        _check_regression(signature)
    else:
        raise ServingError(Code.UNIMPLEMENTED, f"Unsupported signature method_name: {method}")


def result(
    signature: Signature, method: str, outputs: Arrays, count: int
) -> classification_pb2.ClassificationResult | regression_pb2.RegressionResult:
    """What a method answers so many examples.

    Raises:
        ServingError: INVALID_ARGUMENT for outputs of another kind or shape.
    """
    if method == CLASSIFY_METHOD:
        return classification_result(signature, outputs, count)
    return regression_result(signature, outputs, count)


def classification_result(signature: Signature, outputs: Arrays, count: int) -> classification_pb2.ClassificationResult:
    """The classes and scores [N, classes] of a run, an entry an example.

    Raises:
        ServingError: INVALID_ARGUMENT for outputs of another kind or shape.
    """
    named = dict(zip(signature.outputs, outputs, strict=True))
    classes, scores = named.get("classes"), named.get("scores")
    for title, output, kind in (("classes", classes, "DT_STRING"), ("scores", scores, "DT_FLOAT")):
        if output is None:
            continue
        if output.ndim != 2:
            raise invalid_argument(
                f"Expected Tensor shape: [batch_size num_classes] but got {shape_text(output.shape)}"
            )
        if _type_name(output) != kind:
            raise invalid_argument(f"Expected {title} Tensor of {kind}. Got: {_type_name(output)}")
        if output.shape[0] != count:
            raise invalid_argument(f"Expected {title} output batch size of {count}. Got: {output.shape[0]}")
    if classes is not None and scores is not None and classes.shape != scores.shape:
        raise invalid_argument(
            f"Tensors class and score should match in dim_size(1). Got {classes.shape[1]} vs. {scores.shape[1]}"
        )
    result = classification_pb2.ClassificationResult()
    width = classes.shape[1] if classes is not None else scores.shape[1] if scores is not None else 0
    for example in range(count):
        entry = result.classifications.add()
        for i in range(width):
            one = entry.classes.add()
            if classes is not None:
                one.label = classes[example, i].decode("utf-8", "replace")
            if scores is not None:
                one.score = scores[example, i]
    return result


def regression_result(signature: Signature, outputs: Arrays, count: int) -> regression_pb2.RegressionResult:
    """The values [N] or [N, 1] of a run, one an example.

    Raises:
        ServingError: INVALID_ARGUMENT for an output of another kind or shape.
    """
    output = outputs[list(signature.outputs).index("outputs")]
    if output.ndim not in (1, 2) or (output.ndim == 2 and output.shape[1] != 1):
        raise invalid_argument(
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got "
            f"{shape_text(output.shape)}"
        )
    if output.shape[0] != count:
        raise invalid_argument(f"Input batch size did not match output batch size: {count} vs. {output.shape[0]}")
    if _type_name(output) != "DT_FLOAT":
        raise invalid_argument(f"Expected output Tensor of DT_FLOAT.  Got: {_type_name(output)}")
    result = regression_pb2.RegressionResult()
    for value in output.ravel().tolist():
        result.regressions.add(value=value)
    return result


def _type_name(array: Array) -> str:
    name: str = types_pb2.DataType.Name(dtypes.as_dtype(array.dtype).as_datatype_enum)
    return name


def _examples(given: input_pb2.Input) -> Array:
    """Serialized Examples; a context goes in front of each, so that the example's own features win."""
    context = b""
    examples: Sequence[object] = given.example_list.examples
    if given.WhichOneof("kind") == "example_list_with_context":
        context = given.example_list_with_context.context.SerializeToString()
        examples = given.example_list_with_context.examples
    if not examples:
        raise invalid_argument("Input is empty.")
    array = np.empty(len(examples), dtype=object)
    array[:] = [context + example.SerializeToString() for example in examples]  # type: ignore[attr-defined]
    return array


def _check_classification(signature: Signature) -> None:
    _check_method_name(signature, "classification", CLASSIFY_METHOD)
    if len(signature.inputs) != 1:
        raise invalid_argument("Expected one input Tensor.")
    if len(signature.outputs) not in (1, 2):
        raise invalid_argument(f"Expected one or two output Tensors, found {len(signature.outputs)}")
    definition = text_format.MessageToString(signature.definition)
    if "inputs" not in signature.inputs:
        raise invalid_argument(f"No classification inputs found in SignatureDef: {definition}")
    if "classes" not in signature.outputs and "scores" not in signature.outputs:
        raise invalid_argument(
            'Expected classification signature outputs to contain at least one of "classes" or "scores". Signature '
            f"was: {definition}"
        )


def _check_regression(signature: Signature) -> None:
    _check_method_name(signature, "regression", REGRESS_METHOD)
    if len(signature.inputs) != 1:
        raise invalid_argument("Expected one input Tensor.")
    if len(signature.outputs) != 1:
        raise invalid_argument("Expected one output Tensor.")
    definition = text_format.MessageToString(signature.definition)
    if "inputs" not in signature.inputs:
        raise invalid_argument(f"No regression inputs found in SignatureDef: {definition}")
    if "outputs" not in signature.outputs:
        raise invalid_argument(f"No regression outputs found in SignatureDef: {definition}")


def _check_method_name(signature: Signature, kind: str, expected: str) -> None:
    if signature.check_method_name and signature.definition.method_name != expected:
        raise invalid_argument(
            f"Expected {kind} signature method_name to be {expected}. Was: {signature.definition.method_name}"
        )


def _answered(loaded: Loaded, signature: Signature) -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=loaded.servable.name, signature_name=signature.name)
    spec.version.value = loaded.servable.version
    return spec
