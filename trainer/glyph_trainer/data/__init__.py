"""Where images come from: the MNIST files, the label.index.jpg folder, splits."""
