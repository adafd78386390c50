"""The embedded server: TensorFlow Serving's protocol, in Python inside Envoy."""
