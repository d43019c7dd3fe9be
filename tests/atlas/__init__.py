"""Releases of an atlas."""
