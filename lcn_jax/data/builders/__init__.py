"""Builders of datasets, one for each source."""
