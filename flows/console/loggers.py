"""The rooms whose log belongs to a run. A command sends it to standard error, Prefect to the log of the flow run."""

LOGGERS = ("storage", "vision", "workers", "tasks")
# Prefect reads it at import. The files in deployments/ repeat it; a test compares them.
PREFECT_LOGGERS = {"PREFECT_LOGGING_EXTRA_LOGGERS": ",".join(LOGGERS)}
