"""What is done, and where: the meeting of storage and vision. No Prefect and no web framework here."""
