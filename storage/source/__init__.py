"""Find the images of a folder or an object store: walk, label and digest them."""
