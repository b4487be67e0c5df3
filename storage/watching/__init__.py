"""Watch an image folder and detect that images arrive."""
