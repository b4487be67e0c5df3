"""The batch-size study: what trainings say about batch sizes."""
