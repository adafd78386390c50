"""The same model behind LitServe, over HTTP: what its own documentation suggests. For serving_bench.py.

Usage: serving_litserve.py PORT MODEL   (in an environment that has litserve)
"""

import sys
from typing import Any

import litserve  # type: ignore[import-not-found]  # it is in an environment of its own
import numpy as np
import tensorflow as tf


class Digits(litserve.LitAPI):  # type: ignore[misc]
    """Takes and gives what TensorFlow Serving's REST API takes and gives."""

    def setup(self, device: str) -> None:
        del device
        self._model = tf.saved_model.load(sys.argv[2])
        self._predict = self._model.signatures["serving_default"]

    def decode_request(self, request: dict[str, Any]) -> Any:
        return np.array(request["instances"], np.uint8)

    def predict(self, x: Any) -> Any:
        return self._predict(image=tf.constant(x))

    def encode_response(self, output: Any) -> dict[str, Any]:
        probabilities, labels = output["probabilities"].numpy(), output["label"].numpy()
        rows = zip(probabilities.tolist(), labels.tolist(), strict=True)
        return {"predictions": [{"probabilities": row, "label": label.decode()} for row, label in rows]}


if __name__ == "__main__":
    server = litserve.LitServer(Digits(), accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), num_api_servers=1, generate_client_file=False, log_level="error"
    )
