"""Output formats, the commit of a part, the finish of a file, the lease. Start at `output.py`."""
