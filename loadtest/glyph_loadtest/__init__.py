"""How much can a TensorFlow Serving model server take: Locust users, open-loop load, honest figures."""
