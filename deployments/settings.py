"""Settings of a server and its clients. compose.yaml and systemd/ repeat them; a test compares."""

from flows.console.loggers import PREFECT_LOGGERS

POOL = "extract-and-train"
PRIVATE = {"DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
# Leases are on disk: if everything crashes, a held concurrency slot expires after five minutes. In memory, the server
# would lose the lease and never free the slot.
SERVER = {
    **PRIVATE,
    "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "15",
    # A page calls the server that it came from, through any port or tunnel. Prefect's own value has its default port.
    "PREFECT_SERVER_UI_API_URL": "/api",
    "PREFECT_PLUGINS_ENABLED": "false",
}
WORKER = {
    **PRIVATE,
    "PREFECT_WORKER_QUERY_SECONDS": "1",
    **PREFECT_LOGGERS,
    "PREFECT_PLUGINS_ENABLED": "false",
}


def server_settings(origin: str, password: str) -> dict[str, str]:
    """Settings of a server with its pages at `origin`. Only its own pages may call it, and only with the password."""
    return SERVER | {
        "PREFECT_SERVER_API_AUTH_STRING": password,
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": origin,
        "PREFECT_UI_URL": origin,  # for links in the messages that the server sends
    }


def client_settings(origin: str, password: str) -> dict[str, str]:
    """Settings of a client of that server, for example of a worker."""
    return {"PREFECT_API_URL": f"{origin}/api", "PREFECT_API_AUTH_STRING": password}
