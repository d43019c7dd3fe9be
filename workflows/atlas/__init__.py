"""Releases of an atlas: many data sets, processed where something changed, unattended."""
