"""Where storage and vision meet: jobs, and the processes that run them. No Prefect and no web framework here."""
