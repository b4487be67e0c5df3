"""Networks in the format of an engine's library, converted once per weights and kept beside the facts about the engine.

The folder may be deleted at any time. The first process converts a network, and the others wait for it.
"""

import json
import logging
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vision.engines.facts import cache_folder, kept, sources

logger = logging.getLogger(__name__)


def kept_network(
    record: Mapping[str, Any], suffix: str, libraries: Mapping[str, str], convert: Callable[[], bytes]
) -> bytes:
    """The file of a network: from the cache, if its digest is the noted one, or converted now.

    record: what is converted, with the digest of the weights, as JSON. suffix: of the file. libraries: name → build of those
    that convert it; a newer one replaces the file. If the folder cannot be written, each process converts the network.
    Errors of `convert` pass through.
    """
    place = sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:32]
    path = cache_folder() / "graphs" / f"{place}{suffix}"
    data = b""

    def find() -> dict[str, Any]:
        nonlocal data
        data = convert()
        _keep(path, data)
        return {"sha256": sha256(data).hexdigest()}

    def holds(fact: dict[str, Any]) -> bool:
        nonlocal data
        try:
            data = path.read_bytes()
        except OSError:
            return False
        return sha256(data).hexdigest() == fact["sha256"]

    kept({"graph": dict(record), "format": suffix, "sources": sources(), **libraries}, find, holds)
    return data


def _keep(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=path.parent) as folder:
            Path(folder, path.name).write_bytes(data)
            Path(folder, path.name).replace(path)
    except OSError as error:
        logger.warning("%s cannot be kept (%s): each process converts the network by itself", path, error.strerror)
