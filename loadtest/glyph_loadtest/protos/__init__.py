"""The messages of TensorFlow Serving's API that a load test needs, under a proto package of their own."""
