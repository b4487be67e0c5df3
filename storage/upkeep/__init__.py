"""Keeping a store in order: verify, repair, compact, gc, quarantine. For the holder of the store's lock, but for verify."""
