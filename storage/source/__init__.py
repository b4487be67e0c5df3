"""The images in a folder or an object store: walk, label, digest."""
