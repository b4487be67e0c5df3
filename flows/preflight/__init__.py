"""What each flow checks before Prefect is imported. It returns its result if nothing is to be done, and Start otherwise."""
