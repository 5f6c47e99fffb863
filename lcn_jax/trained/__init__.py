"""Networks that a run has trained: their kernels, activations and accuracy."""
