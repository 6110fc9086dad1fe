"""One module or package a format: its `Format` record, its reader, its writer. Start at `registry.py`."""
