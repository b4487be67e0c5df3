"""The check of parameters that are paths."""

import os

import pydantic

from flows.options.roots import IMAGE_ROOTS, STORE_ROOTS, WEIGHTS_ROOTS, check_below
from storage.backend.paths import at_home
from vision.backbones.own_file import is_own
from workers.jobs.spaces import NAMED_WEIGHTS

ROOTS = {
    "images": IMAGE_ROOTS,
    "labels": IMAGE_ROOTS,
    "exclude": STORE_ROOTS,
    "relabel": STORE_ROOTS,
    "store": STORE_ROOTS,
    "out": STORE_ROOTS,
    "weights": WEIGHTS_ROOTS,
    "backbone": WEIGHTS_ROOTS,
}


def check_path(value: str | None, info: pydantic.ValidationInfo) -> str | None:
    """Return the path of the field `info.field_name`, with `~` resolved. Raises ValueError if it is outside its roots.

    Raises ValueError too if the absolute path is not UTF-8. The working folder may be the part that is not.
    """
    if info.field_name == "backbone" and not is_own(value or ""):
        return value  # a name
    is_path = value and "://" not in value and not (info.field_name == "weights" and value in NAMED_WEIGHTS)
    if value and is_path and value.startswith("~"):
        value = os.path.abspath(at_home(value))  # before the check of the roots
    path = os.path.abspath(value) if value and is_path else ""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"--{info.field_name}: the path {path!a} is not UTF-8, which Prefect and Arrow need; "
            "use a link whose path is UTF-8 (file names below the image folder may be any bytes)"
        ) from None
    if value and (is_path or "://" in value):
        check_below(f"--{info.field_name}", value, ROOTS[info.field_name or ""])
    return value
