"""Keep a store in order: verify, repair, compact, collect, quarantine. The caller holds the lock, except for verify."""
