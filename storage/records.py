"""Serialize and hash the store's records: canonical JSON, checksums, fingerprints."""

import hashlib
import json
from collections.abc import Mapping

from storage.backend.paths import Place


def sha256(data: bytes) -> str:
    """The sha256 of bytes as hex digits."""
    return hashlib.sha256(data).hexdigest()


def file_sha256(path: Place) -> str:
    """The sha256 of a file as hex digits, in constant memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical(record: Mapping) -> bytes:
    """The canonical bytes of a record, for hashing: JSON with sorted keys and no spaces, in UTF-8."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sealed(record: Mapping) -> dict:
    """The record with a checksum of its whole content, by which `unsealed` detects any change."""
    return {**record, "checksum": sha256(canonical(record))[:32]}


def unsealed(record: Mapping) -> dict:
    """Verify a sealed record and return it without the checksum. Raises ValueError or TypeError if it was changed."""
    content = dict(record)
    if content.pop("checksum", None) != sha256(canonical(content))[:32]:
        raise ValueError("its checksum does not match")
    return content


def fingerprint(spec: Mapping) -> str:
    """The name of a feature space: the first 32 hex digits of the spec's sha256.

    The spec holds everything that changes feature values.
    """
    return sha256(canonical(spec))[:32]
