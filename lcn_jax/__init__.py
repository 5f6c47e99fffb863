"""Locally connected networks in JAX: the layer, the sleep that makes weights alike, the training."""
