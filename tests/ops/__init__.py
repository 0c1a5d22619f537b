"""Operators, and their cases as data."""
