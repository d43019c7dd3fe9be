"""Tests of stored volumes, with real files."""
