"""Shared by the binaries."""
