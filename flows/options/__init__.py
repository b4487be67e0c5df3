"""The parameters of the flows: flags, YAML keys and Prefect parameters from one definition."""
