"""Runs on one store follow each other: how long one waits for its turn."""
