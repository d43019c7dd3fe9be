"""Workers on this machine and running clusters."""
