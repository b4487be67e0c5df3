"""One file a verb: what a child is asked to do, from a small record to a small record."""
