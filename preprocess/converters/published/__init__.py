"""Shared code of the converters for published Parquet and tar files: layouts, dialogues, conversion of rows."""
