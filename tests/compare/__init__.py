"""Measures of `voxcaliper compare` against libraries and plain definitions."""
