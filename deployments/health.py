"""Check whether a Prefect server answers: `python -m deployments.health URL` exits with 0 if it does, and 1 if not."""

import sys
import urllib.error
import urllib.request


def is_healthy(origin: str) -> bool:
    """Whether a server answers at `origin`, if only to request a password (status 401)."""
    try:
        with urllib.request.urlopen(f"{origin}/api/health", timeout=5) as answer:
            return answer.status == 200
    except urllib.error.HTTPError as error:
        return error.code == 401
    except OSError:
        return False


if __name__ == "__main__":
    raise SystemExit(0 if is_healthy(sys.argv[1]) else 1)
