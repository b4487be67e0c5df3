"""Shards: immutable files of feature rows."""
