"""Planning: find and index the inputs, shuffle the records, and assign them to shards and rows."""
