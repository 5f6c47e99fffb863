"""Training: configs, the loop around wake and sleep steps, checkpoints, records."""
