"""Access to bytes on a disk or in an object store: paths, atomic writes, the lock, bounded reads."""
