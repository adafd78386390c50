"""TensorFlow Serving's messages under a package of their own, compiled from serving.proto."""
