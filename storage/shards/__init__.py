"""Shards: immutable files of feature rows, in Parquet or npz."""
