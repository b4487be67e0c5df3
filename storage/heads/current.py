"""Read and set the current head."""

from storage.backend.atomic import replace
from storage.layout import HEAD_NAME, Store


def current_head(store: Store) -> str | None:
    """The name of the promoted head; None before the first promotion, or if the file holds no head's name."""
    try:
        name = (store.heads / "current").read_text(errors="replace").strip()
    except FileNotFoundError:
        return None
    return name if HEAD_NAME.fullmatch(name) else None


def promote_head(store: Store, name: str) -> None:
    """Make a head the current one. The caller has checked that it may be."""
    replace(store.heads / "current", f"{store.head(name).name}\n".encode())
