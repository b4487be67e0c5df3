"""The rooms whose log is part of a run's: a command sends it to standard error, Prefect to the run's log."""

LOGGERS = ("storage", "vision", "workers", "tasks")
# Read when Prefect is imported. The files of deployments/ repeat it; a test compares.
PREFECT_LOGGERS = {"PREFECT_LOGGING_EXTRA_LOGGERS": ",".join(LOGGERS)}
