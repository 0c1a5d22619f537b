"""A user's files."""
