"""Pages, compiled code and its cache, the float64 reference."""
