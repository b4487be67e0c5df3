r"""Which folders and buckets a parameter may name: those below the configured roots, or any if none are configured.

Whoever reaches the server can set a deployment's parameters. The roots are environment variables of its worker, so
no parameter can change them. Colons separate roots. A colon that belongs to a path is written `\:`, and a backslash
before a colon `\\`:

    EXTRACT_AND_TRAIN_IMAGE_ROOTS=/data/photos:s3://bucket/photos
"""

import os
import re
from collections.abc import Iterable

IMAGE_ROOTS = "EXTRACT_AND_TRAIN_IMAGE_ROOTS"  # images, tables of labels
STORE_ROOTS = "EXTRACT_AND_TRAIN_STORE_ROOTS"  # stores, reports, reviewed files
WEIGHTS_ROOTS = "EXTRACT_AND_TRAIN_WEIGHTS_ROOTS"

ROOT = re.compile(r"((?:[A-Za-z][\w+.-]*://)?(?:\\[\\:]|[^:])+)")  # the colon of s3:// is no separator


def roots(name: str) -> list[str]:
    """The roots that the environment variable `name` sets."""
    return [re.sub(r"\\([\\:])", r"\1", root) for root in ROOT.findall(os.environ.get(name, ""))]


def joined(places: Iterable[str]) -> str:
    """The value of an environment variable that sets these roots."""
    return ":".join(_escaped(place) for place in places)


def _escaped(address: str) -> str:
    scheme, mark, rest = address.rpartition("://")
    return scheme + mark + re.sub(r"([\\:])", r"\\\1", rest)


def is_below(address: str, root: str) -> bool:
    """Whether an address is a root or lies below it.

    Local links and `..` are resolved. An object store has neither, so an address with `.` or `..` is never below.
    """
    where, above = _absolute(address), _absolute(root)
    return where is not None and above is not None and f"{where}/".startswith(f"{above.rstrip('/')}/")


def check_below(flag: str, address: str, name: str) -> None:
    """Raise ValueError if an address is outside the roots that the environment variable `name` sets."""
    allowed = roots(name)
    if allowed and not any(is_below(address, root) for root in allowed):
        raise ValueError(
            f"{flag}: {address} is outside the allowed roots ({', '.join(allowed)}); "
            f"name a place below one of them, or set {name} where the worker starts"
        )


def can_lead_out(name: str) -> bool:
    """Whether a local link can lead out of the roots that the environment variable `name` sets."""
    return bool(roots(name)) and not any(is_below("/", root) for root in roots(name))


def _absolute(address: str) -> str | None:
    """The real path of a local address, or the prefix in an object store; None for a prefix with `.` or `..`."""
    scheme, mark, rest = address.partition("://")
    if not mark:
        return os.path.realpath(address)
    parts = [part for part in rest.split("/") if part]
    return None if {".", ".."} & set(parts) else f"{scheme}://{'/'.join(parts)}"
