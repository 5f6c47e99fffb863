"""Locally connected networks inside other tools."""
