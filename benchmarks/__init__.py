"""Benchmarks that users can run; see docs/benchmarks.md."""
