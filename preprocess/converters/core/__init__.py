"""Shared code of all converters: reading sources, jobs, receipts, rejects, atomic output."""
