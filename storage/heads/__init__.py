"""Trained heads in a store: records, checkpoints, pins, and which one is current."""
