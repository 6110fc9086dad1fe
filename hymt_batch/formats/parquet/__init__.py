"""Tables: parquet files, and datasets saved with `save_to_disk`."""
