"""The report of the batch-size study."""
