"""The example in docs/ that trains on a store without the pipeline."""

import re
import subprocess
import sys
from dataclasses import replace

import pytest

from tests import toy
from tests.test_layers import PROJECT


@pytest.mark.parametrize("how", ["as it stands", "on pooled features", "with the generator"])
def test_a_script_of_ones_own_trains_on_a_store_without_prefect(images, store, tmp_path, monkeypatch, how):
    """With the generator: in numpy alone, a whole training of logistic regression on the batches of the stream."""
    if how == "on pooled features":
        pooled(monkeypatch)
    toy.run(images, store, validation_fraction=0.3)
    if how != "with the generator":
        command = [sys.executable, "-X", "importtime", PROJECT / "docs" / "train_your_own.py", store]
    else:
        (tmp_path / "own.py").write_text(GENERATOR)
        command = [sys.executable, "-X", "importtime", tmp_path / "own.py", store]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=PROJECT, env=None)
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(r"\d+ images of cats, dogs: validation accuracy [01]\.\d+", done.stdout)
    imported = re.findall(r"\| +(\w+)$", done.stderr, re.M)
    assert "numpy" in imported
    assert "prefect" not in imported
    assert ("tensorflow" in imported) == (how != "with the generator")


def pooled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the toy's features be of one dimension."""
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
