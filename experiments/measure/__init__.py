"""The measurements of `experiments.benchmark`."""
