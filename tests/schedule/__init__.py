"""Schedules: when, where, as which text, and what an unattended run leaves behind."""
