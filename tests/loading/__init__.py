"""`load`, and the cache of whole models."""
