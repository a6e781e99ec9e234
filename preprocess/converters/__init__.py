"""Converters from source datasets to canonical JSONL conversations.

Each dataset is one module with a function from source record to canonical record, and one entry in `registry.py`;
`core/job.py` implements writing, counting and rejects for all of them. See docs/add_a_dataset.md.
"""
