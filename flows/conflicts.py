"""Two runs on one object store: both may work, one wins each version, and the other builds on it."""
