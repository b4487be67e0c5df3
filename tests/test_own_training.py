"""The example in docs/ that trains on a store without the pipeline."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests import toy
from tests.test_layers import PROJECT


def test_the_script_trains_on_a_store_without_prefect(images, tmp_path, monkeypatch):
    """It trains on feature maps, and on pooled features."""
    stores = [tmp_path / "maps", tmp_path / "pooled"]
    toy.run(images, stores[0], validation_fraction=0.3)
    pooled(monkeypatch)
    toy.run(images, stores[1], validation_fraction=0.3)
    # One process for both, because it loads TensorFlow.
    script = PROJECT / "docs" / "train_your_own.py"
    both = f"import runpy, sys\nfor sys.argv[1] in {[str(store) for store in stores]}: runpy.run_path({str(script)!r}, run_name='__main__')"
    accuracies, imported = run("-c", both, "the store")
    assert len(accuracies) == 2
    assert "prefect" not in imported
    assert "tensorflow" in imported


def test_the_stream_trains_without_tensorflow(images, store, tmp_path):
    """A whole training of logistic regression in numpy, on the batches of the stream."""
    toy.run(images, store, validation_fraction=0.3)
    (tmp_path / "own.py").write_text(GENERATOR)
    accuracies, imported = run(tmp_path / "own.py", store)
    assert len(accuracies) == 1
    assert "numpy" in imported
    assert not {"prefect", "tensorflow"} & imported


def run(*arguments: str | Path) -> tuple[list[str], set[str]]:
    """The accuracies that a Python process prints, and the modules that it imports."""
    command = [sys.executable, "-X", "importtime", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=PROJECT)
    assert done.returncode == 0, done.stderr[-2000:]
    printed = re.findall(r"\d+ images of cats, dogs: validation accuracy ([01]\.\d+)", done.stdout)
    return printed, set(re.findall(r"\| +(\w+)$", done.stderr, re.M))


def pooled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the toy's features have one dimension."""
    spec = replace(toy.SPEC, pooling="avg")
    monkeypatch.setattr(toy, "SPEC", spec)
    monkeypatch.setattr(toy.ToyEngine, "spec", spec)


GENERATOR = f"""
import sys
sys.path.insert(0, {str(PROJECT)!r})
from itertools import islice
import numpy as np
from storage.reading import open_split

training, validation = (open_split(sys.argv[1], split, batch_size=4) for split in ("train", "validation"))
weights = np.zeros(np.prod(training.kind.shape))
for features, labels in islice(training.epochs(), 50 * training.steps):
    rows = features.reshape(len(features), -1).astype(float) / 255
    weights -= 0.1 * rows.T @ (1 / (1 + np.exp(-rows @ weights)) - labels) / len(rows)
right = [((f.reshape(len(f), -1).astype(float) @ weights > 0) == labels).mean() for f, labels in validation.batches()]
print(f"{{len(training.table)}} images of {{', '.join(training.table.classes)}}: validation accuracy {{np.mean(right):.3f}}")
"""
