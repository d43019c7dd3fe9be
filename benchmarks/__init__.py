"""Benchmarks: one file per question; results in RESULTS.md."""
