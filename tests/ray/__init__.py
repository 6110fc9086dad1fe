"""A real Ray cluster of two nodes on one machine, and jobs on it."""
