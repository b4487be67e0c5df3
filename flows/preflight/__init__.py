"""What each flow checks before it imports Prefect: a preflight returns Start, or a result if there is nothing to do."""
