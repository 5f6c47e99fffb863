"""Binaries; run them from the top of the repository with `python -m experiments.NAME`."""

import os

# XLA takes it for an error that a processor does not have 'prefer-no-gather', which is a preference
# and no instruction, and says so at length of each compiled program that it reads again. The
# variable counts when JAX is imported. What really fails raises an exception.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
