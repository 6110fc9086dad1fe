"""A real SLURM on one machine, and jobs on it."""
