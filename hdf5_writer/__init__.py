"""Rows in, verified HDF5 shards out: planning, writing, resuming, verifying (see docs/architecture.md)."""

__version__ = "0.1.0"
