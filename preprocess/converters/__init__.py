"""Converters: one source dataset each, to canonical JSONL conversations.

A dataset is one module with a small function from source record to canonical record, and one line in `registry.py`;
`job.py` owns reading, writing, counting and rejects for all of them. See docs/add_a_dataset.md.
"""
