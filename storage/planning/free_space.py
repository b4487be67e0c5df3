"""Check before the work starts that a plan's shards fit on the disk."""

import shutil

from storage.backend.paths import Place, is_local
from storage.errors import NoRoom
from storage.layout import Store
from storage.planning.plan import Plan
from storage.text import count


def expected_bytes(plan: Plan, row_bytes: float) -> int:
    """Estimate the bytes of a plan's shards.

    Uses the mean bytes per row of the store's shards in the plan's format, or `row_bytes` if there are none.
    """
    known = [ref for ref in plan.shards.values() if ref.name.endswith(plan.format) and ref.num_rows]
    rows = sum(ref.num_rows for ref in known)
    own_bytes = sum(ref.size_bytes for ref in known) / rows if rows else row_bytes
    return round(plan.num_rows * own_bytes)


def free_bytes(root: Place) -> int | None:
    """Free bytes on the disk of a folder, which need not exist yet. None for an object store, which has no limit."""
    if not is_local(root):
        return None
    while not root.exists():
        root = root.parent
    return shutil.disk_usage(root).free


def check_room(store: Store, plan: Plan, row_bytes: float) -> None:
    """Raise NoRoom if the shards of a plan will not fit on the disk."""
    expected, free = expected_bytes(plan, row_bytes), free_bytes(store.root)
    if free is not None and expected > free:
        raise NoRoom(
            f"the features of {count(plan.todo.num_rows, 'image')} need about {expected / 1e6:,.1f} MB, but the disk of "
            f"{store.root} has only {free / 1e6:,.1f} MB left; nothing was extracted. Free some space, put `store` on "
            "another disk, or extract fewer images with `limit`"
        )
