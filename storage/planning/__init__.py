"""Which rows are missing, and how the work is cut."""
