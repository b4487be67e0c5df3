"""Predictions: pieces that children write, and the file that a run makes of them."""
