"""The checks behind `hymt-batch doctor`. Start at `preflight.py`; `catalogue.toml` lists the known failures."""
