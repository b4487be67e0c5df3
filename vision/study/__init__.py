"""The batch-size study: rows, cells and advice from finished trainings."""
