"""Load OpenVINO without its usage reports, and its plugin without a crash to come."""

import sys
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any


def load_openvino() -> ModuleType:
    """The library. Every import of it goes through here.

    As it comes, OpenVINO writes a user number to ~/intel and reports to its makers, once when it is imported and once
    when it converts a model. Without the package `openvino_telemetry` it does neither, so that package is hidden.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # its import raises ImportError
    import openvino

    return openvino


def new_core() -> Any:
    """An `openvino.Core` whose CPU plugin is loaded.

    The plugin gives the thread that loads it another stack for signal handlers, and frees that stack on whichever
    thread drops the last reference. Loaded by the main thread and freed by another, it would let Python crash at the
    next signal (OpenVINO 2026.4). So a thread loads it that ends at once.
    """
    core = load_openvino().Core()
    with ThreadPoolExecutor(1) as loading:
        loading.submit(core.get_property, "CPU", "FULL_DEVICE_NAME").result()
    return core
