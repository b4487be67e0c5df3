"""Heads with code of their own, and trainings that diverge: neither becomes the current head."""

import base64
import dataclasses
import io
import json
import marshal
import re
import shutil
import zipfile
from pathlib import Path

import pytest

from storage.cli.main import main as storage
from storage.errors import StoreDamaged
from storage.heads.current import current_head
from tests import toy
from tests.vision.report.test_report import Page
from tests.workers.jobs.trainer import Trainer
from workers.jobs.head_identity import find_head

# Keras 3.15 warns on NumPy 2 whenever it saves (keras/src/backend/tensorflow/core.py, convert_to_numpy).
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


# Untrusted heads


def with_layer(model: bytes, kind: dict) -> bytes:
    """The file of a head, with its Dropout layer replaced by a layer of another kind."""
    sink = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(model)) as old, zipfile.ZipFile(sink, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "config.json":
                config = json.loads(data)
                next(layer for layer in config["config"]["layers"] if layer["class_name"] == "Dropout").update(kind)
                data = json.dumps(config).encode()
            new.writestr(name, data)
    return sink.getvalue()


def lambda_layer(marker: Path) -> dict:
    """The configuration that Keras saves for a Lambda layer. Its Python lambda creates `marker` when it runs."""
    code = marshal.dumps(eval(f"lambda x: open({str(marker)!r}, 'w') and x").__code__)
    kept = {"code": base64.b64encode(code).decode(), "defaults": None, "closure": None}
    function = {"class_name": "__lambda__", "config": kept}
    return {"module": "keras.layers", "class_name": "Lambda", "config": {"function": function, "arguments": {}}}


def layer_of_a_class(marker: Path) -> dict:
    """The configuration of a layer that names an arbitrary class, with arguments that create `marker`."""
    return {"module": "subprocess", "class_name": "Popen", "config": {"args": ["touch", str(marker)]}}


@pytest.mark.parametrize("layer", [lambda_layer, layer_of_a_class])
def test_a_head_with_code_of_its_own_is_refused_and_runs_nothing(layer, rival, tmp_path):
    job, marker = rival.job(), tmp_path / "marker"
    record = json.loads((rival.store.head(job.name) / "head.json").read_text())
    model = (rival.store.head(job.name) / "head.keras").read_bytes()
    record.pop("checksum")
    toy.head(rival.store, job.name, record, with_layer(model, layer(marker)))
    with pytest.raises(StoreDamaged, match=r"head\.keras cannot be loaded: Keras safe mode .* `force_retrain`"):
        rival.train(rival.job(epochs=3, initial_epoch=2))
    assert rival.train(rival.job(seed=1, epochs=1)).is_promoted  # it replaces the unusable current head
    assert not marker.exists()


# Trainings that diverge


@pytest.fixture(scope="module")
def diverged(first: Trainer, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """A copy of `first` with a head whose training diverged, and the progress records of that training."""
    root = tmp_path_factory.mktemp("diverged") / "store"
    shutil.copytree(first.root, root)
    made = dataclasses.replace(first, root=root, heard=[])
    made.result = made.train(made.job(learning_rate=1e30), made.heard.append)
    return made


def test_a_training_that_diverges_is_a_head_that_is_never_current_and_has_no_bare_nan(first, diverged, capsys):
    before, result, job = current_head(first.store), diverged.result, diverged.job(learning_rate=1e30)
    assert (result.is_new, result.is_promoted, result.val_loss) == (True, False, None)
    assert current_head(diverged.store) == before
    text = (diverged.store.head(job.name) / "head.json").read_text()
    record = json.loads(text, parse_constant=lambda constant: pytest.fail(f"a bare {constant}"))
    assert record["diverged"]["epoch"] == 1
    assert [each for each in diverged.heard if "loss" in each][-1]["val_loss"] is None
    assert json.loads(json.dumps(dataclasses.asdict(result), allow_nan=False))["history"] == record["history"]
    found = find_head(diverged.store, job.name)
    assert (found.diverged, found.is_promoted) == (result.diverged, False)
    again = diverged.train(job)
    assert (again.is_new, again.is_promoted, again.diverged) == (False, False, result.diverged)
    assert not diverged.train(dataclasses.replace(job, promote="always")).is_promoted
    assert current_head(diverged.store) == before
    assert storage(["promote", job.name, "--store", str(diverged.root)]) == 2
    assert "is not finite" in capsys.readouterr().err
    assert "diverged" in Page.of((diverged.store.head(job.name) / "report.html").read_text()).text


def test_the_rate_that_is_advised_after_a_divergence_trains(diverged):
    text = diverged.result.diverged
    assert "diverged at a learning rate of 1e+30" in text
    (rate,) = re.findall(r"try `learning_rate=([0-9.e+-]+)`\.", text)
    assert diverged.train(diverged.job(learning_rate=float(rate), epochs=1)).diverged is None
