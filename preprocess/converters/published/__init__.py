"""What the converters of published Parquet and tar files share: layouts, dialogues, one row → one conversation."""
