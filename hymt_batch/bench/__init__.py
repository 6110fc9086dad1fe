"""Measure decoding engines: ours, the baselines, and the arithmetic lower bound."""
