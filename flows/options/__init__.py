"""The parameters of the flows. One definition yields flags, YAML keys and Prefect parameters."""
