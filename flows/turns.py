"""Runs on one store follow each other: how long one waits for its turn."""

from prefect.runtime import deployment

DEPLOYED_SECONDS = 24 * 3600.0


def is_deployed() -> bool:
    """Whether this is a run of a deployment."""
    return deployment.id is not None


def turn_seconds(wait_seconds: float) -> float:
    """What was asked for; else a day for a run of a deployment, which nobody starts again, and nothing for others."""
    return wait_seconds or (DEPLOYED_SECONDS if is_deployed() else 0.0)
