"""The jobs of a child, one file per verb. A job takes a small record and returns a small record."""
