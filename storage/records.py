"""Records of the store as bytes: canonical JSON, checksums, fingerprints."""

import hashlib
import json
from collections.abc import Mapping

from storage.backend.paths import Place


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def file_sha256(path: Place) -> str:
    """The same of a file, which is read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical(record: Mapping) -> bytes:
    """The one way a record becomes bytes to be hashed: JSON, sorted keys, no spaces, UTF-8."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sealed(record: Mapping) -> dict:
    """The record with a checksum of all of it: a changed digit is noticed by `unsealed`."""
    return {**record, "checksum": sha256(canonical(record))[:32]}


def unsealed(record: Mapping) -> dict:
    """A sealed record without its checksum. Raises ValueError or TypeError where it is not what was written."""
    content = dict(record)
    if content.pop("checksum", None) != sha256(canonical(content))[:32]:
        raise ValueError("its checksum is another")
    return content


def fingerprint(spec: Mapping) -> str:
    """The name of a feature space: 32 hex digits of the sha256 of everything that changes a feature."""
    return sha256(canonical(spec))[:32]
