"""The doctor: one check a function, one table. Start at `examine.py`; failure modes are in `catalogue.toml`."""
