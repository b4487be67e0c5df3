"""Load OpenVINO without its usage reports."""

import sys
from types import ModuleType


def load_openvino() -> ModuleType:
    """The library. Every import of it goes through here.

    As it comes, OpenVINO writes a user number to ~/intel and reports to its makers, once when it is imported and once
    when it converts a model. Without the package `openvino_telemetry` it does neither, so that package is hidden.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # its import raises ImportError
    import openvino

    return openvino
