"""Benchmarks: one file per question, results in RESULTS.md. `python -m benchmarks` runs all, the tests run them tiny."""
