"""Check whether a Prefect server answers: `python -m deployments.health URL` ends with 0 or 1."""

import sys
import urllib.error
import urllib.request


def is_healthy(origin: str) -> bool:
    """Whether somebody answers there, be it with the question for a password."""
    try:
        with urllib.request.urlopen(f"{origin}/api/health", timeout=5) as answer:
            return answer.status == 200
    except urllib.error.HTTPError as error:
        return error.code == 401
    except OSError:
        return False


if __name__ == "__main__":
    raise SystemExit(0 if is_healthy(sys.argv[1]) else 1)
