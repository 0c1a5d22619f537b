"""Runs seen from inside."""
