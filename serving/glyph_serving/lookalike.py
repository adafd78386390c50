"""Predict requests that are like one before in all but the content of their tensor, told without parsing them.

The requests of a client differ in the pixels and in nothing else, and the pixels come last. Once a request has been
answered, others of its length that begin as it began are known to mean the same: taking the tensor out of their bytes
costs a tenth of what parsing the message does.
"""

import os
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tensorflow_serving.apis import predict_pb2

from glyph_serving import inference, tensor_proto
from glyph_serving.batching import Admission, Done
from glyph_serving.errors import ServingError
from glyph_serving.harness import Loaded
from glyph_serving.manager import Manager
from glyph_serving.servable import DEFAULT_SIGNATURE, Array

_MOST = 256  # kinds of requests that are remembered
_KEY_BYTES = 32


@dataclass(eq=False)
class Kind:
    """What all requests that begin alike ask for.

    Attributes:
        head: What they begin with: everything but the content of the tensor.
        name: The model.
        version: The version; None: by label, or the latest.
        label: The label; None: by version, or the latest.
        signature_name: The signature.
        alias: The one input.
        dtype: Its data type.
        shape: Its shape.
    """

    head: bytes
    name: str
    version: int | None
    label: str | None
    signature_name: str
    alias: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    _admission: Admission = field(default=Admission(0, True), init=False)
    _admitted_by: weakref.ref[Loaded] | None = field(default=None, init=False)  # weak, so that it can be unloaded

    def servable(self, manager: Manager) -> Loaded | None:
        """What answers requests of this kind; None if it takes other inputs, so that they have to be parsed after all.

        Raises:
            ServingError: What they name is not available, or does not take such tensors.
        """
        loaded = manager.get(self.name, self.version, self.label)
        if self._admitted_by is None or self._admitted_by() is not loaded:
            signature = loaded.servable.signatures.get(self.signature_name)
            if signature is None or list(signature.inputs) != [self.alias]:
                return None
            inference.check_method_name(signature)
            self._admission = loaded.batchers[self.signature_name].admit([np.empty(self.shape, self.dtype)])
            self._admitted_by = weakref.ref(loaded)
        return loaded

    def most_together(self, loaded: Loaded) -> int:
        """How many requests of this kind to submit at once to what ``servable`` has just given."""
        return loaded.batchers[self.signature_name].most_together(self._admission)

    def enough(self, loaded: Loaded) -> int:
        """How many requests of this kind need not wait for others that are about to come."""
        return loaded.batchers[self.signature_name].enough(self._admission)

    def submit(
        self, loaded: Loaded, payloads: Sequence[bytes], deadline: float, since: Sequence[float], done: Done
    ) -> None:
        """Submits requests of this kind to what ``servable`` has just given; see ``Batcher.submit``."""
        start = len(self.head)
        if len(payloads) == 1:
            array: Array = np.ndarray(self.shape, self.dtype, payloads[0], start)
        else:
            memory = b"".join([payload[start:] for payload in payloads])
            array = np.ndarray((len(payloads) * self.shape[0], *self.shape[1:]), self.dtype, memory)
        loaded.batchers[self.signature_name].submit([array], self._admission, deadline, since, done)


class Lookalikes:
    """The kinds of requests that have been seen."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[int, bytes], Kind] = {}

    def find(self, payload: bytes) -> Kind | None:
        """The kind of a serialized PredictRequest; None if it is not known."""
        kind = self._kinds.get((len(payload), payload[:_KEY_BYTES]))
        return kind if kind is not None and payload.startswith(kind.head) else None

    def learn(self, payload: bytes, request: predict_pb2.PredictRequest) -> None:
        """Remembers the kind of a request that was answered, if it ends with its only tensor's content."""
        key = (len(payload), payload[:_KEY_BYTES])
        if key in self._kinds or len(self._kinds) >= _MOST or len(request.inputs) != 1 or request.output_filter:
            return
        alias, tensor = next(iter(request.inputs.items()))
        content = tensor.tensor_content
        if not content or not payload.endswith(content):
            return
        head = payload[: -len(content)]
        # Whether those last bytes are the content, and not only equal to it, shows when others take their place.
        others = os.urandom(len(content))
        if predict_pb2.PredictRequest.FromString(head + others).inputs[alias].tensor_content != others:
            return
        spec = request.model_spec
        choice = spec.WhichOneof("version_choice")
        try:
            array = tensor_proto.decode(alias, tensor)
        except ServingError:
            return
        self._kinds[key] = Kind(
            head,
            spec.name,
            spec.version.value if choice == "version" else None,
            spec.version_label if choice == "version_label" else None,
            spec.signature_name or DEFAULT_SIGNATURE,
            alias,
            array.dtype,
            array.shape,
        )
