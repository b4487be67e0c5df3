"""Settings of a server and its clients. compose.yaml and systemd/ contain the same (a test compares)."""

from flows.console.loggers import PREFECT_LOGGERS

POOL = "extract-and-train"
PRIVATE = {"DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
# Leases on disk: a slot that a crash of everything left taken is free again after five minutes, not never.
SERVER = {
    **PRIVATE,
    "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "15",
    # A page asks the server that it came from, through whatever port or tunnel; Prefect's own value has its default port.
    "PREFECT_SERVER_UI_API_URL": "/api",
    "PREFECT_PLUGINS_ENABLED": "false",
}
WORKER = {
    **PRIVATE,
    "PREFECT_WORKER_QUERY_SECONDS": "2",
    **PREFECT_LOGGERS,
    "PREFECT_PLUGINS_ENABLED": "false",
}


def server_settings(origin: str, password: str) -> dict[str, str]:
    """Of a server whose pages are shown at `origin`; only a page of its own may talk to it, and only by password."""
    return SERVER | {
        "PREFECT_SERVER_API_AUTH_STRING": password,
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": origin,
        "PREFECT_UI_URL": origin,  # of the links in messages that the server sends
    }


def client_settings(origin: str, password: str) -> dict[str, str]:
    return {"PREFECT_API_URL": f"{origin}/api", "PREFECT_API_AUTH_STRING": password}
