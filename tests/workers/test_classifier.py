"""A trained store labels new pictures, from Python alone."""

import io
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from storage.errors import InputError, StoreDamaged
from storage.heads.current import current_head
from storage.heads.registry import read_head
from storage.layout import Store
from storage.manifest.kept_weights import read_kept
from storage.manifest.versions import latest_version
from storage.reading import open_split
from storage.reading.samples import split_files
from vision.errors import WeightsError
from workers.classifier import Classifier
from workers.jobs import opened_head

GOLDEN = Path(__file__).parents[1] / "golden"
SPACE = "c520172344d0d8c6793f7c63de7e8a93"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of an older version of this program, which was given its weights once."""
    root = tmp_path_factory.mktemp("classifier")
    for name in ("images", "store"):
        shutil.copytree(GOLDEN / name, root / name, copy_function=shutil.copyfile)
    Classifier.load(root / "store", weights="random")
    return root / "store"


@pytest.fixture(scope="module")
def classifier(store: Path) -> Classifier:
    return Classifier.load(store)


def files(store: Path) -> list[Path]:
    return sorted((store.parent / "images").rglob("*.png"))


def test_a_picture_gets_the_probabilities_of_its_stored_features(store, classifier):
    space = Store(store, SPACE)
    version = latest_version(space)
    assert version is not None
    stream = open_split(store, "train", batch_size=100, seed=None)
    features, _ = next(iter(stream.epochs()))
    expected = classifier.predict_features(features)
    paths = split_files(space, version, "train", classifier.classes)["path"].to_pylist()
    found = classifier.predict([store.parent / "images" / path.decode() for path in paths])
    assert len(found) == len(features) > 20
    assert {prediction.status for prediction in found} == {"ok"}
    assert np.allclose(
        sorted(prediction.probabilities[0] for prediction in found), sorted(expected[:, 0].tolist()), atol=2e-3
    )


def test_every_form_of_a_picture_gives_the_same_answer(store, classifier):
    path = files(store)[0]
    with PIL.Image.open(path) as image:
        image.load()
    array = np.asarray(image.convert("RGB"))
    forms = [path, str(path), path.read_bytes(), image, array, PIL.Image.open(path), image.convert("RGBA")]
    found = classifier.predict(forms)
    assert len({(each.status, each.label) for each in found}) == 1
    assert np.ptp([each.probability for each in found]) < 1e-6
    assert classifier.predict(path)[0].label == found[0].label


def test_what_cannot_be_read_gets_a_reason_at_its_place(store, classifier, tmp_path):
    good = files(store)[0]
    (tmp_path / "folder").mkdir()
    given = [tmp_path / "gone.jpg", good, b"", b"text", good.read_bytes()[:60], tmp_path / "folder", good]
    found = classifier.predict(given)
    assert [each.status for each in found] == [
        "pending",
        "ok",
        "quarantined",
        "quarantined",
        "quarantined",
        "pending",
        "ok",
    ]
    assert [each.reason for each in found][:4] == ["vanished", None, "zero_byte", "not_image"]
    assert found[1] == found[6]
    assert all((each.label is None) == (each.probabilities == ()) == (each.message is not None) for each in found)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV", "F", "I"])
def test_a_pillow_image_of_any_mode_is_used(store, classifier, mode):
    image = PIL.Image.open(files(store)[0]).convert("L" if mode == "LA" else "RGB").convert(mode)
    assert classifier.predict(image)[0].status == "ok"


@pytest.mark.parametrize(
    "wrong", [np.zeros((4, 4, 3)), np.zeros((2, 4, 4, 3), np.uint8), np.zeros((0, 4, 3), np.uint8)]
)
def test_an_array_that_is_no_picture_is_refused(classifier, wrong):
    with pytest.raises(TypeError, match="uint8"):
        classifier.predict([wrong])


def test_a_stream_of_pictures_is_read_as_it_is_predicted(store, classifier, monkeypatch):
    monkeypatch.setattr("workers.jobs.predictor.GROUP", 4)
    taken = []

    def pictures():
        for number in range(12):
            taken.append(number)
            yield files(store)[number % 3]

    answers = classifier.stream(pictures())
    next(answers)
    assert len(taken) == 4
    assert sum(1 for _ in answers) == 11


def test_a_store_of_before_asks_for_its_weights_once(tmp_path):
    shutil.copytree(GOLDEN / "store", tmp_path / "store", copy_function=shutil.copyfile)
    with pytest.raises(InputError, match="`weights`"):
        Classifier.load(tmp_path / "store")
    Classifier.load(tmp_path / "store", weights="random")
    kept = read_kept(Store(tmp_path / "store", SPACE))
    assert kept is not None
    assert kept.source == "random"
    Classifier.load(tmp_path / "store")


def test_other_weights_are_refused(tmp_path):
    from tests import toy

    shutil.copytree(GOLDEN / "store", tmp_path / "store", copy_function=shutil.copyfile)
    with pytest.raises(WeightsError, match=SPACE):
        Classifier.load(tmp_path / "store", weights=str(toy.weights_file(tmp_path / "other.h5", seed=1)))
    assert read_kept(Store(tmp_path / "store", SPACE)) is None


def test_a_store_without_a_head_says_how_to_get_one(tmp_path):
    with pytest.raises(InputError, match="no store"):
        Classifier.load(tmp_path / "nowhere")
    (tmp_path / "store" / "heads").mkdir(parents=True)
    with pytest.raises(InputError, match="no head yet"):
        Classifier.load(tmp_path / "store")
    shutil.copytree(GOLDEN / "store", tmp_path / "other", copy_function=shutil.copyfile)
    (tmp_path / "other" / "heads" / "current").unlink()
    with pytest.raises(InputError, match="no current head"):
        Classifier.load(tmp_path / "other")
    with pytest.raises(InputError, match="32 hex digits"):
        Classifier.load(tmp_path / "other", head="../current")


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_a_head_is_refused_for_features_of_another_precision(monkeypatch, store, precision):
    found = read_head(Store(store, SPACE), str(current_head(Store(store, SPACE))))
    other = found | {"features": found["features"] | {"precision": precision}}
    monkeypatch.setattr(opened_head, "read_head", lambda store, name: other)
    with pytest.raises(StoreDamaged, match="its features are of another feature space"):
        Classifier.load(store)


def test_any_head_can_be_named(store):
    current = current_head(Store(store, SPACE))
    other = "7b8382882706f0e78681c2090ee710ad"
    assert other != current
    assert Classifier.load(store, head=other).head.name == other


def test_a_classifier_needs_neither_prefect_nor_tensorflow(store):
    code = (
        "import sys; from workers.classifier import Classifier; "
        f"c = Classifier.load({str(store)!r}); c.predict({str(files(store)[0])!r}); "
        "print([name for name in ('prefect', 'tensorflow', 'keras') if name in sys.modules], c.engine)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert shown.stdout.splitlines()[-1].startswith("[] mnn")


def test_a_file_in_memory_is_not_kept(classifier):
    sink = io.BytesIO()
    PIL.Image.new("RGB", (40, 30), (200, 30, 20)).save(sink, "JPEG")
    data = sink.getvalue()
    before = sys.getrefcount(data)
    classifier.predict([data])
    assert sys.getrefcount(data) == before
