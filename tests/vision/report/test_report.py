"""The page, from figures that are made up: what it holds, and what it never does whatever things are called."""

import io
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from tests import browser
from vision.pixels.augment import augmented
from vision.pixels.augmentation import Augmentation, variant_keys
from vision.pixels.decode import ImageError, decode
from vision.report.augmentation_samples import Augmented, Sample, address, in_words, pictures
from vision.report.page import SETTINGS, Report, Shown, best_epoch, confusions, percent, render, settings
from vision.report.thumbnails import SIDE, thumbnail
from vision.specs import FeatureSpec
from vision.training.evaluation import precision_and_recall
from vision.training.head import LATER, HeadSpec

HOSTILE = "<script>alert(1)</script>"
NAMES = (HOSTILE, '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}", "a'b&amp;", "$x_1$", "n" * 200)
VOID = {"meta", "img", "wbr", "path", "use", "image", "rect"}


@dataclass
class Page(HTMLParser):
    """A page as a parser sees it: every tag with its attributes, the text outside of style, tags that are not closed."""

    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)

    def __post_init__(self):
        super().__init__()

    @classmethod
    def of(cls, page: str) -> "Page":
        found = cls()
        found.feed(page)
        found.close()
        return found

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "wbr":
            self.texts[-1] += data
        elif not self.open or self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def picture(seed: int) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(sink, "PNG")
    return sink.getvalue()


def scored(classes: tuple[str, ...], confusion: np.ndarray) -> dict:
    images = confusion.sum(axis=1).tolist()
    pairs = zip(classes, precision_and_recall(confusion), images, strict=True)
    return {name: {"precision": one, "recall": other, "images": count} for name, (one, other), count in pairs}


def record(classes: tuple[str, ...], epochs: int = 6, has_test: bool = False) -> dict:
    """A head.json of made-up figures that agree with each other."""
    draw = np.random.default_rng(len(classes))
    confusion = draw.integers(0, 4, (len(classes),) * 2) + np.diag(draw.integers(20, 60, len(classes)))
    history = [
        {"loss": 1.5 / n, "accuracy": 1 - 0.5 / n, "val_loss": 1 / n + 0.02 * n, "val_accuracy": 0.9 - 0.3 / n}
        for n in range(1, epochs + 1)
    ]
    found = {
        "fingerprint": "f" * 32,
        "features": {
            "weights": "0" * 32,
            "backbone": "vgg16",
            "image_size": 224,
            "pooling": "none",
            "dtype": "float16",
            "precision": "float32",
            "preprocessing": "pillow-rgb bilinear caffe 1",
            "exif": "ignore",
            "shape": [7, 7, 512],
        },
        "version": 12,
        "data_digest": "d" * 64,
        "classes": list(classes),
        "samples": {"train": 12345, "validation": int(confusion.sum())},
        "head": {"classes": list(classes), "kind": "mlp", "epochs": 20, "patience": None, "standardize": True},
        "seed": 7,
        "metrics": {
            "epochs": epochs,
            "val_accuracy": float(np.trace(confusion) / confusion.sum()),
            "val_loss": 0.3071,
            "train_seconds": 61.5,
            "train_samples_per_second": 1204.0,
        },
        "per_class": scored(classes, confusion),
        "confusion": confusion.tolist(),
        "test": None,
        "history": history,
        "environment": {"python": "3.11.9", "keras": "3.15.1"},
        "created": "2026-01-02T03:04:05+00:00",
    }
    if has_test:
        tested = confusion // 2 + np.eye(len(classes), dtype=int)
        accuracy = float(np.trace(tested) / tested.sum())
        figures = {"accuracy": accuracy, "loss": 0.4182, "images": int(tested.sum())}
        found["test"] = figures | {"per_class": scored(classes, tested), "confusion": tested.tolist()}
    return found


def mistakes(classes: tuple[str, ...], count: int) -> tuple[Shown, ...]:
    return tuple(
        Shown(
            classes[n % len(classes)],
            classes[(n + 1) % len(classes)],
            0.004 * n,
            1 - 0.006 * n,
            rf"validation/<b>{n}\xff.jpg",
            None if n % 5 == 4 else thumbnail(picture(n)),
            "the file is gone" if n % 5 == 4 else "",
        )
        for n in range(count)
    )


def page(classes: tuple[str, ...] = ("cats", "dogs"), shown: int = 7, **options) -> str:
    facts = "2026-01-01 00:00:00 UTC", "2026-01-02 03:04:05 UTC"
    name = "a3ac7f79cd801010e99dba50466438a1"
    return render(Report(name, record(classes, **options), classes, "/photos", *facts, mistakes(classes, shown)))


@pytest.mark.parametrize("has_test", [False, True])
@pytest.mark.parametrize("classes", [("cats", "dogs"), NAMES, tuple(f"class {n}" for n in range(50))], ids=len)
def test_the_page_holds_the_figures_of_head_json(classes, has_test):
    found, facts = Page.of(page(classes, has_test=has_test)), record(classes, has_test=has_test)
    assert found.open == []
    assert f"Validation accuracy {100 * facts['metrics']['val_accuracy']:.1f} %" in found.text
    assert "Validation loss 0.3071" in found.text
    assert ("Test loss 0.4182" in found.text) == has_test
    if has_test:
        assert f"Test accuracy {100 * facts['test']['accuracy']:.1f} %" in found.text
    for logs in facts["history"]:
        assert all(f"{logs[name]:.4f}" in found.text for name in ("loss", "val_loss"))
        assert all(f"{100 * logs[name]:.1f} %" in found.text for name in ("accuracy", "val_accuracy"))
    for split in [facts, facts["test"]] if has_test else [facts]:
        for name, scores in split["per_class"].items():
            row = [f"{scores['images']:,}", f"{100 * scores['precision']:.1f} %", f"{100 * scores['recall']:.1f} %"]
            assert " ".join(row) in found.text, name
    for value in ("f" * 32, "d" * 64, "a3ac7f79cd801010e99dba50466438a1", "12,345", "3.15.1", "7 × 7 × 512", "/photos"):
        assert value in found.text


@pytest.mark.parametrize("has_test", [False, True])
def test_each_count_of_the_confusion_matrix_stands_in_its_row(has_test):
    classes = tuple("abcdefg")
    found, facts = page(classes, has_test=has_test), record(classes, has_test=has_test)
    tables = re.findall(r'<table class="matrix.*?>(.*?)</table>', found, re.S)
    expected = [facts["confusion"], facts["test"]["confusion"]] if has_test else [facts["confusion"]]
    for table, counts in zip(tables, expected, strict=True):
        rows = re.findall(r"<tr><th scope=\"row\">(.*?)</tr>", table, re.S)
        assert [[int(count) for count in re.findall(r"<td.*?>(\d+)</td>", row)] for row in rows] == counts


def test_whatever_classes_and_files_are_called_is_text_and_nothing_else():
    found = Page.of(page(NAMES))
    assert [tag for tag, _ in found.tags if tag == "script"] == []
    assert [name for _, attributes in found.tags for name in attributes if name.startswith("on")] == []
    for name in NAMES:
        assert " ".join(name.split()) in found.text
    assert r"validation/<b>0\xff.jpg" in found.text
    assert len(found.all("b")) == 2 * 7  # ours, around the two classes of each mistake
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in found.all("img"))


@pytest.mark.parametrize("classes", [NAMES, tuple(f"class {n}" for n in range(50))], ids=len)
def test_the_page_asks_for_nothing_from_elsewhere(classes):
    found = Page.of(page(classes, has_test=True))
    for _, attributes in found.tags:
        for name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            assert re.match(r"data:image/|#|$", attributes.get(name) or ""), attributes
    assert not any("http" in (attributes.get("style") or "") for _, attributes in found.tags)
    assert {tag for tag, _ in found.tags} & {"link", "script", "iframe", "object", "embed", "base", "form"} == set()
    (policy,) = [meta["content"] for meta in found.all("meta") if "http-equiv" in meta]
    assert policy.startswith("default-src 'none';")


def test_there_is_a_picture_for_each_mistake_or_a_word_on_why_there_is_none():
    found = Page.of(page(shown=24))
    assert len(found.all("img")) == 20
    assert found.text.count("No picture: the file is gone") == 4
    assert len([paragraph for paragraph in found.all("p") if paragraph.get("class") == "path"]) == 24


def test_a_head_that_makes_no_mistake_says_so():
    assert "were predicted correctly" in Page.of(page(shown=0)).text


def test_the_page_can_be_heard():
    """One h1, no level left out; every image has a text; every cell of a head says what it is the head of."""
    for classes in (("cats", "dogs"), tuple(f"class {n}" for n in range(50))):
        found = Page.of(page(classes, has_test=True))
        levels = [int(tag[1]) for tag, _ in found.tags if re.fullmatch(r"h[1-6]", tag)]
        assert levels.count(1) == 1
        assert all(after <= before + 1 for before, after in zip([0, *levels], levels, strict=False))
        assert all(image["alt"] for image in found.all("img"))
        assert all(cell["scope"] for cell in found.all("th"))
        assert all(chart["aria-label"] for chart in found.all("div") if chart.get("role") == "img")
        assert found.all("html") == [{"lang": "en"}]
        ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
        assert len(ids) == len(set(ids))
        labels = [attributes["aria-labelledby"] for _, attributes in found.tags if "aria-labelledby" in attributes]
        assert set(labels) <= set(ids)


def test_the_best_epoch_is_the_first_with_the_lowest_validation_loss():
    losses = (0.5, 0.2, float("nan"), 0.2, 0.3)
    assert best_epoch([{"val_loss": loss} for loss in losses]) == 2
    assert best_epoch([{"val_loss": float("nan")}]) is None


def test_a_training_that_came_to_nothing_has_a_page_too():
    facts = record(("cats", "dogs"), epochs=1)
    facts["history"][0] |= {"loss": float("nan"), "val_loss": float("nan")}
    facts["metrics"] |= {"val_loss": float("nan")}
    found = Page.of(render(Report("a" * 32, facts, ("cats", "dogs"), "/photos", "then", "now", ())))
    assert "Validation loss not a number" in found.text


def test_a_share_that_is_not_quite_all_or_nothing_does_not_look_so():
    assert [
        percent(share).replace("\N{NO-BREAK SPACE}", " ")
        for share in (0.0, 1e-9, 0.0005, 0.123456, 0.9994, 0.99999, 1.0, None)
    ] == [
        "0.0 %",
        "under 0.1 %",
        "0.1 %",
        "12.3 %",
        "99.9 %",
        "over 99.9 %",
        "100.0 %",
        "–",
    ]


def test_the_most_frequent_confusions_come_first_and_none_that_did_not_happen():
    assert confusions(np.array([[9, 2, 0], [5, 9, 0], [0, 1, 9]])) == [(1, 0, 5), (0, 1, 2), (2, 1, 1)]


def test_a_thumbnail_is_the_square_that_the_network_sees():
    small = Image.open(io.BytesIO(thumbnail(picture(3))))
    assert (small.format, small.size) == ("JPEG", (SIDE, SIDE))
    difference = np.asarray(small).astype(float) - decode(picture(3), SIDE)
    assert abs(difference).mean() < 12
    with pytest.raises(ImageError):
        thumbnail(b"no image")


def test_the_same_figures_give_the_same_page():
    assert page(has_test=True) == page(has_test=True)


# Augmented training images, and what was fine-tuned


def shown_samples(classes: tuple[str, ...]) -> Augmented:
    jpegs = tuple(thumbnail(picture(n)) for n in range(5))
    names = ("original", *(f"variant {n}" for n in range(1, 5)))
    own, path = classes[0], r"train/<b>" + HOSTILE + r"\xff.jpg"
    samples = (Sample(own, path, jpegs), Sample(own, path, None, "the file is gone"), Sample(own, path, jpegs[:1]))
    return Augmented("fill_mode <b>", 5, "epoch", names, samples)


def augmented_page(classes: tuple[str, ...] = ("cats", "dogs")) -> str:
    return render(Report("a" * 32, record(classes), classes, "/photos", "then", "now", (), shown_samples(classes)))


def page_of(start: float | None = None, **head) -> str:
    """The text of a page: of a head that is shaped so, and had this validation loss at its start."""
    facts = record(("cats", "dogs"))
    facts["head"] |= head
    if head.get("fine_tune"):
        facts["base"] = "b" * 32
        facts["start"] = None if start is None else {"val_loss": start, "val_accuracy": 0.875}
    return Page.of(render(Report("a" * 32, facts, ("cats", "dogs"), "/photos", "then", "now", ()))).text


def test_augmented_pictures_stand_beside_each_other_whatever_they_are_called():
    found = Page.of(augmented_page(NAMES))
    images = found.all("img")
    assert [image["src"] for image in images[:5]] == [
        address(jpeg) for jpeg in shown_samples(NAMES).samples[0].pictures
    ]
    assert [image["alt"].rpartition(", ")[2] for image in images] == [*shown_samples(NAMES).names, "original"]
    assert all(image["alt"].startswith(rf"train/<b>{HOSTILE}\xff.jpg, ") for image in images)
    assert found.open == []
    assert found.all("script") == []
    assert len(found.all("b")) == 3  # ours, around the class of each image
    assert found.text.count(rf"train/<b>{HOSTILE}\xff.jpg") == 3
    assert found.text.count("No pictures: the file is gone") == 1
    assert "Augmentation: fill_mode <b>." in found.text


def test_a_page_without_augmentation_has_no_section_of_it():
    assert "augmented" not in [attributes.get("id") for _, attributes in Page.of(page()).tags]
    assert "ugment" not in page_of()


def test_pictures_are_an_image_as_it_is_and_as_each_key_augments_it():
    spec = FeatureSpec(weights="0" * 32, image_size=256)
    augmentation = Augmentation(rotation_range=90, horizontal_flip=True, brightness_range=(0.3, 1.5))
    keys = variant_keys(augmentation.digest, bytes(32), (1, 2, 3))
    smooth = Image.fromarray(np.random.default_rng(1).integers(0, 256, (3, 3, 3), dtype=np.uint8)).resize((90, 60))
    smooth.save(sink := io.BytesIO(), "PNG")
    plain = decode(sink.getvalue(), 256)
    views = augmented(np.stack([plain] * 3), augmentation.draw(keys, 256), augmentation)
    shown = [Image.open(io.BytesIO(jpeg)) for jpeg in pictures(sink.getvalue(), spec, augmentation, keys)]
    assert [(image.format, image.size) for image in shown] == [("JPEG", (SIDE, SIDE))] * 4
    for image, view in zip(shown, [plain, *views], strict=True):
        small = np.asarray(Image.fromarray(view).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
        assert abs(np.asarray(image).astype(float) - small).mean() < 3
    assert abs(np.asarray(shown[1]).astype(float) - np.asarray(shown[2])).mean() > 10
    with pytest.raises(ImageError):
        pictures(b"no image", spec, augmentation, keys)


@pytest.mark.parametrize(
    ("augmentation", "words"),
    [
        (Augmentation(rotation_range=20, zoom_range=0.2), "zoom_range 0.2, rotation_range 20"),
        (Augmentation(zoom_range=(0.8, 2), horizontal_flip=True), "zoom_range 0.8 to 2, horizontal_flip"),
        (Augmentation(width_shift_range=12, height_shift_range=12.0), "width_shift_range 12, height_shift_range 12.0"),
        (Augmentation(width_shift_range=(4, 8.5)), "width_shift_range one of 4, 8.5"),
        (Augmentation(shear_range=3, fill_mode="constant", cval=7.5), "shear_range 3, fill_mode constant, cval 7.5"),
        (Augmentation(), ""),
    ],
)
def test_an_augmentation_is_said_in_words(augmentation, words):
    assert in_words(augmentation) == words


def test_settings_name_what_is_not_as_usual_and_only_that():
    text = '{"rotation_range":20.0,"zoom_range":[0.5,1.5]}'
    assert settings({"augment": text, "variants": 4}) == [
        ("augmentation of training images", "zoom_range 0.5 to 1.5, rotation_range 20"),
        ("stored views of a training image", "4 including the original"),
    ]
    assert settings({"train_on": "images"}) == [("trained on", "images, decoded again for each epoch")]
    tuned = dict(settings({"fine_tune": "block5", "fine_tune_epochs": 3}))
    assert tuned == {
        "fine-tuned": "block5 and later blocks",
        "fine-tuning epochs at most": "3",
        "fine-tuning learning rate": "1e-05",
    }
    usual = dict(settings(HeadSpec(("cats", "dogs")).record()))
    assert not usual.keys() & {SETTINGS[name][0] for name in LATER & SETTINGS.keys()}
    assert set(HeadSpec(("cats", "dogs")).record()) - {"classes"} <= set(SETTINGS)


def test_a_page_says_what_was_fine_tuned_and_what_it_began_with():
    """The lowest loss of the made-up history is that of its last epoch, 1/6 + 0.12."""
    for start in (0.5, None):
        text = page_of(start, fine_tune="block5")
        assert "the layers of VGG16 from block5 on were trained together with the head" in text
        assert f"It began as head {'b' * 32} ." in text
        assert ("87.5 % of the validation images were right, with a loss of 0.5000 nats." in text) == (start == 0.5)
        assert "Best epoch 6 of 6" in text
        assert "the start were kept" not in text
    assert "ine-tun" not in page_of()


@pytest.mark.parametrize("start", [0.2, record(("cats", "dogs"))["history"][-1]["val_loss"], float("nan")])
def test_no_epoch_is_the_best_where_none_bettered_the_start(start):
    text = page_of(start, fine_tune="block5")
    assert "Best epoch none of 6" in text
    assert text.count("the initial weights were kept") == 2
    assert "(best)" not in text
    assert "best epoch:" not in text


# In a browser


@pytest.mark.parametrize(
    ("width", "is_dark"),
    [
        pytest.param(1280, False, id="desktop-light"),
        pytest.param(390, True, id="phone-dark"),
        pytest.param(1280, True, id="desktop-dark", marks=pytest.mark.slow),
        pytest.param(390, False, id="phone-light", marks=pytest.mark.slow),
    ],
)
def test_in_a_browser_the_page_is_there_and_no_wider_than_the_window(width, is_dark, tmp_path):
    seen = browser.look(page(tuple("abcdefghij"), has_test=True), tmp_path, width, is_dark=is_dark)
    assert (seen.picture.size, seen.overflow) == ((width, 1600), 0)
    assert seen.height > 1600
    bare = np.asarray(seen.picture.convert("L"))
    background = np.bincount(bare.reshape(-1)).argmax()
    assert (background < 60) == is_dark
    assert (background > 200) == (not is_dark)
    for part in np.array_split(abs(bare.astype(int) - int(background)) > 40, 8):
        assert 0.002 < part.mean() < 0.9  # something stands there, in every eighth of it


@pytest.mark.parametrize(
    "classes", [NAMES, tuple(f"a class called {n}" for n in range(20))], ids=["odd names", "20 classes"]
)
def test_long_names_and_many_classes_make_no_page_wider_than_a_phone(classes, tmp_path):
    assert browser.look(page(classes, has_test=True), tmp_path, 360).overflow == 0
    assert browser.look(page(classes, has_test=True), tmp_path, 1024).overflow == 0


def test_augmented_pictures_make_no_page_wider_than_a_phone(tmp_path):
    assert browser.look(augmented_page(NAMES), tmp_path, 360).overflow == 0
    assert browser.look(augmented_page(NAMES), tmp_path, 1024).overflow == 0
