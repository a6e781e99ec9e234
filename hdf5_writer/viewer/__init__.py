"""Pages and terminal output that show rows and compare datasets."""
