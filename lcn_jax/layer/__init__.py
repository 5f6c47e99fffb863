"""The locally connected layer: receptive fields, the function, and its modules."""
