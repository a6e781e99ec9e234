"""Load and check tokenizers; encode one record or a batch of records."""
