"""Benchmarks: one file per question. `python -m benchmarks` runs all and writes RESULTS.md, the tests run them tiny."""
