"""Models and streams."""
