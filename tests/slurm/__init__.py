"""A real SLURM on this machine, and runs on it."""
