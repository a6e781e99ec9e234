"""Texts → ids: loading and checking a tokenizer, one record, many records at once."""
