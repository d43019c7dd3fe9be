"""Measures: merged integer tallies in, the numbers of the field out, once. Floats are formed in one fixed order.

A value that is undefined is NaN and has a sentence in `reasons` under its name; an infinite one is inf.
"""
