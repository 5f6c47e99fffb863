"""Locally connected networks in JAX: fast layers, and a sleep that makes their weights alike."""
