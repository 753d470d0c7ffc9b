"""One training loop: its batches and their order, its losses, networks in training, predictions, biases."""
