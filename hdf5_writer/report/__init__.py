"""report.html: what became of the records, and what the rows are like."""
