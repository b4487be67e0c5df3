"""Notice that images arrive."""
