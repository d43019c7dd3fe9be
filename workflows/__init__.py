"""Runs: the order of the science, one file per workflow, and the command line."""
