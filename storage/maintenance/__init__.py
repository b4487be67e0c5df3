"""Maintain a store: verify, repair, compact, collect, quarantine. All but verify need the caller to hold the lock."""
