"""From file bytes to pixels, and how pixels are varied."""
