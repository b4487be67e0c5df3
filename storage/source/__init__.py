"""The images as they lie in a folder or an object store: walk, label, digest."""
