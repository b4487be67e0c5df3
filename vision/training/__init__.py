"""Train and evaluate heads."""
