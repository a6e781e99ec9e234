"""Show rows and compare datasets, as HTML pages and as text."""
