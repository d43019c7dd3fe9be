"""Tests: behaviour on real data and real components."""
