"""Kernels against the definition."""
