"""The folder for what this program finds once per machine. It may be deleted at any time."""

import os
from pathlib import Path


def cache_root() -> Path:
    """The folder. It belongs to the user and the machine, not to a store."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    home = os.path.expanduser("~")  # `~` itself if the user has no home
    root = given if given.is_absolute() else Path("/" if home == "~" else home) / ".cache"
    return root / "extract-and-train"
