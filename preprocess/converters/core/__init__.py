"""What all converters share: reading sources, jobs, receipts, rejects, outputs that are whole or absent."""
