"""Trained heads in a store: records, checkpoints, pins and the current head."""
