"""Scores of a finished job against references, and comparisons of jobs. Reads finished outputs only."""
