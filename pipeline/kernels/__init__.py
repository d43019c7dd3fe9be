"""Kernels: arrays in, arrays out, no files. Each folder states a contract and holds one back end per file."""
