"""Decode the bytes of files to pixels, and augment pixels."""
