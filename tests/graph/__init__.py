"""Clocks and limits."""
