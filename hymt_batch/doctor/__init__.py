"""The doctor: one check a function, one table. Start at `preflight.py`; failure modes are in `catalogue.toml`."""
