"""The command, run as a user runs it: real processes, real clusters, real files."""
