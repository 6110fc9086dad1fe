"""Settings of a run, and how it is started elsewhere."""
