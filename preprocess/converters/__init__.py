"""Converters: one source dataset each, to canonical JSONL conversations."""
