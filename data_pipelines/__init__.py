"""Data: procedural videos, data sets, loaders and curation."""
