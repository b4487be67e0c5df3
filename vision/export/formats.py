"""The formats of an export. Imports neither Keras nor TensorFlow; the module of a format does."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from vision.export.description import Description

FormatName = Literal["keras", "saved_model", "onnx", "litert"]
Probabilities = Callable[[np.ndarray], np.ndarray]  # (n, size, size, 3) uint8 → (n, classes) float32


@dataclass(frozen=True)
class ExportFormat:
    """A format. suffix: of its file; empty for a folder. mark: the file in the folder that shows what it is. package: what it
    needs beside TensorFlow."""

    name: FormatName
    suffix: str
    mark: str = ""
    package: str = ""

    @property
    def missing(self) -> str | None:
        """The command that installs the package, None if it is there."""
        if not self.package or find_spec(self.package):
            return None
        return f"pip install -c constraints.txt -e '.[{self.package}]'"

    def write(self, model: Any, path: Path, description: Description) -> None:
        """Write a Keras model from pixels to probabilities to `path`. Raises SpecError for a layer that the format lacks."""
        self._module.write(model, path, description)

    def load(self, path: Path) -> Probabilities | None:
        """Load an export as other programs do. None if the library for that is not installed."""
        return self._module.load(path)

    @property
    def _module(self) -> Any:
        return import_module(f"vision.export.{self.name}")


FORMATS = {
    one.name: one
    for one in (
        ExportFormat("keras", ".keras"),
        ExportFormat("saved_model", "", mark="saved_model.pb"),
        ExportFormat("onnx", ".onnx", package="onnx"),
        ExportFormat("litert", ".tflite"),
    )
}
assert set(FORMATS) == set(get_args(FormatName))
