"""Measurements users can run; see docs/benchmarks.md."""
