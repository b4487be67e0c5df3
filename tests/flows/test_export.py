"""`flows/export.py`: what it refuses, what it leaves, and that its exports work without this project."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from flows import export
from storage.heads.current import current_head
from storage.layout import Store
from tests.flows.in_process import Done, finished
from tests.test_layers import PROJECT
from vision.export import formats
from workers.classifier import Classifier

GOLDEN = PROJECT / "tests" / "golden"
OUTS = {
    "keras": "classifier.keras",
    "saved_model": "classifier",
    "onnx": "classifier.onnx",
    "litert": "classifier.tflite",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that keeps its weights."""
    root = tmp_path_factory.mktemp("export") / "store"
    shutil.copytree(GOLDEN / "store", root, copy_function=shutil.copyfile)
    Classifier.load(root, weights="random")
    return root


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> Done:
    status = export.main([str(argument) for argument in arguments])
    return finished(status, *capsys.readouterr())


def refused(done: Done, status: int = 2) -> str:
    """The one line of an error."""
    assert (done.status, done.record) == (status, None), done
    *_, line = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "Traceback" not in done.stderr
    return line


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--out x.keras", "--format: name the format of the model: keras, saved_model, onnx, litert"),
        ("--format keras", "--out: name the file that ends in .keras"),
        (
            "--format tflite --out x.tflite",
            "--format: expected 'keras', 'saved_model', 'onnx' or 'litert', got 'tflite'",
        ),
        ("--format onnx --out x.keras", "for example x.onnx"),
        ("--format litert --out x", "for example x.tflite"),
        ("--format saved_model --out x.keras", "folder without a suffix, for example x"),
        ("--format keras --out s3://bucket/x.keras", "is not on this machine"),
        ("--format keras --out x.keras --head zzz", "'zzz' is not the name of a head"),
        ("--format keras --out x.keras --head 00000000000000000000000000000000", "has no head"),
        ("--format keras --out x.keras --store nowhere", "there is no store at"),
        ("--format keras --out x.keras --weights nowhere.h5", "nowhere.h5"),
        ("--format keras --out there.keras", "there.keras exists; replace it with --overwrite"),
        ("--format keras --out there.keras/x.keras", "nothing can be written in"),
        ("--format saved_model --out there --overwrite", "has no saved_model.pb and is not replaced"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line_before_anything_starts(
    trained, given, said, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(export, "_exported", lambda *_: pytest.fail("a child was started"))
    Path("there.keras").write_text("mine")
    Path("there").mkdir()
    given = given if "--store" in given else f"--store {shlex.quote(str(trained))} {given}"
    assert said in refused(call(capsys, *shlex.split(given)))
    assert Path("there.keras").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there", "there.keras"]


def test_a_missing_package_is_refused_with_the_command_that_installs_it(trained, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    line = refused(call(capsys, "--store", trained, "--format", "onnx", "--out", tmp_path / "x.onnx"))
    assert "pip install -c constraints.txt -e '.[onnx]'" in line


def test_a_store_of_before_asks_for_its_weights_once(capsys, tmp_path, monkeypatch):
    shutil.copytree(GOLDEN / "store", tmp_path / "store", copy_function=shutil.copyfile)
    given = "--store", tmp_path / "store", "--format", "keras", "--out", tmp_path / "x.keras"
    assert "--weights" in refused(call(capsys, *given))
    stopped = RuntimeError("as far as this test goes")

    def stop(*_):
        raise stopped

    monkeypatch.setattr(export, "_exported", stop)
    for more in (["--weights", "random"], []):
        assert call(capsys, *given, *more).status == 1
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_job_that_fails_leaves_the_export_of_before(trained, capsys, tmp_path, monkeypatch):
    out = tmp_path / "x.keras"
    out.write_text("before")

    def die(job, options):
        Path(job.path).write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "_exported", die)
    done = call(capsys, "--store", trained, "--format", "keras", "--out", out, "--overwrite")
    assert done.status == 130
    assert "interrupted; nothing was written" in done.stderr
    assert out.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["x.keras"]


def test_an_export_of_a_store_needs_neither_prefect_nor_tensorflow_in_its_process():
    code = "import flows.export, sys; print(sorted(set(sys.modules) & {'prefect', 'tensorflow', 'keras'}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT)
    assert done.stdout.strip() == "[]"


def snippets() -> dict[str, str]:
    """The file that each Python block of docs/export.md loads → the block."""
    blocks = re.findall(r"^```python\n(.*?)^```", (PROJECT / "docs/export.md").read_text(), re.M | re.S)
    return {re.search(r'"(classifier[.\w]*)"', block)[1]: block for block in blocks}  # type: ignore[index]


def test_every_format_has_a_documented_way_to_load_it():
    assert set(snippets()) == set(OUTS.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", OUTS)
def test_an_export_works_as_documented_without_this_project(trained, name, capsys, tmp_path):
    picture = min((GOLDEN / "images").rglob("*.png"))
    size = 32
    PIL.Image.open(picture).convert("RGB").resize((150, 90)).save(tmp_path / "photo.jpg", quality=95)
    classifier = Classifier.load(trained, engine="tensorflow")
    assert classifier.head.spec.image_size == size
    (expected,) = classifier.predict(tmp_path / "photo.jpg")
    for more in ([], ["--overwrite"]):
        done = call(capsys, "--store", trained, "--format", name, "--out", tmp_path / OUTS[name], *more)
        assert done.status == 0, done.stderr
    assert done.record is not None
    assert done.record["head"] == current_head(Store(trained, ""))
    assert done.record["class_names"] == list(classifier.classes)
    assert done.record["max_difference"] < 1e-4
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["photo.jpg", OUTS[name]])

    code = snippets()[OUTS[name]].replace("224", str(size))
    code += """
import json, sys
import numpy as np
assert not {"vision", "storage", "workers"} & set(sys.modules)
print(json.dumps([str(label), np.asarray(probabilities).tolist()]))
"""
    ran = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    label, probabilities = json.loads(ran.stdout.splitlines()[-1])
    assert label == expected.label
    allowed = 2e-2 if name == "saved_model" else 1e-4  # the SavedModel resizes by itself
    assert np.abs(np.array(probabilities) - np.array(expected.probabilities)).max() < allowed
