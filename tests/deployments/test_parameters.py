"""What `up` accepts, its runs accept in the environment that it gives them; the rest it refuses before it starts anything."""

import os
from pathlib import Path

import pytest
from prefect.events import DeploymentEventTrigger

from deployments.__main__ import parse
from deployments.definitions import parameters_of
from deployments.parameters import prepare
from flows.options.flat import checked
from flows.options.pipeline import PipelineOptions
from flows.options.roots import IMAGE_ROOTS, STORE_ROOTS, WEIGHTS_ROOTS
from flows.options.watch import WatchOptions
from flows.registry import FLOWS
from storage.errors import InputError
from tasks.announce_images import resource_id
from tests import toy
from vision.errors import WeightsError

SPACE = ("--weights", "random", "--image-size", "32")
STRANGE = [
    "photos",
    "with space",
    "a:b",
    "a:b:",
    "c:",
    r"back\slash",
    r"back\:both",
    "ünïcode",
    "new\nline",
    "-",
    "~",
    "a=b",
    "$HOME",
    "%20",
]


@pytest.fixture
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, without roots in the environment."""
    for name in (IMAGE_ROOTS, STORE_ROOTS, WEIGHTS_ROOTS):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.weights_file(tmp_path_factory.mktemp("network") / "w.weights.h5", 1)


def stand_up(*words: str | Path, home: Path | None = None) -> dict[str, PipelineOptions | WatchOptions]:
    """What runs make of the parameters that `up` gives them, in their environment; every deployment is asked."""
    parameters, _ = parse([str(word) for word in words])
    before = dict(os.environ)
    document, confining = prepare(home or Path.cwd() / "home", parameters)
    assert dict(os.environ) == before
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir("/")  # a worker has another working folder
        for name, value in confining.items():
            patch.setenv(name, value)
        options = {name: checked(flow.options, parameters_of(document, name)) for name, flow in FLOWS.items()}
        options["extract-and-train"].space()
        options["watch-images"].scan()
    return options


@pytest.mark.parametrize("name", STRANGE)
def test_runs_take_whatever_paths_up_takes(somewhere, network, name):
    toy.pictures(somewhere / name / "images", per_class=1)
    table = somewhere / name / "labels.csv"
    table.write_text("path,class\ncats/000.png,cat\ndogs/000.png,dog\n")
    weights = somewhere / name / "w.weights.h5"
    os.link(network, weights)
    words = ["--images", f"{name}/images", "--store", f"{name}/store", f"--labels={name}/labels.csv"]
    if name == "-":
        words = [f"./{word}" if word.startswith("-/") else word for word in words]
    options = stand_up(
        *words, "--weights", f"./{name}/w.weights.h5", "--image-size", "32", home=somewhere / name / "home"
    )
    assert options["extract-and-train"].weights == str(weights)
    assert options["watch-images"].labels == str(table)
    assert options["store-maintenance"].store == str(somewhere / name / "store")
    assert options["batch-size-study"].out == str(somewhere / name / "home" / "batch-size-study")


def test_labels_and_weights_may_lie_elsewhere(somewhere, network):
    toy.pictures(somewhere / "images", per_class=1)
    for name in ("tables", "networks"):
        (somewhere.parent / name).mkdir()
    (somewhere.parent / "tables" / "l.csv").write_text("path,class\ncats/000.png,cat\ndogs/000.png,dog\n")
    os.link(network, somewhere.parent / "networks" / "w.weights.h5")
    words = ["--labels", "../tables/l.csv", "--weights", "../networks/w.weights.h5", "--image-size", "32"]
    stand_up("--images", "images", "--store", "store", *words)


def test_a_home_folder_is_the_one_of_whoever_calls_up(somewhere, monkeypatch):
    monkeypatch.setenv("HOME", str(somewhere.parent))
    images = toy.pictures(somewhere.parent / "images", per_class=1)
    options = stand_up("--images=~/images", "--store=~/store", *SPACE)
    assert (options["watch-images"].images, options["store-maintenance"].store) == (
        str(images),
        f"{somewhere.parent}/store",
    )


def test_links_lead_out_of_the_images_where_up_is_told_that_they_do(somewhere):
    outside = toy.pictures(somewhere.parent / "outside", per_class=1)
    (somewhere / "images").mkdir()
    for name in ("cats", "dogs"):
        (somewhere / "images" / name).symlink_to(outside / name)
    options = stand_up("--images", "images", "--store", "store", "--outside-links", *SPACE)
    assert options["watch-images"].scan().files.num_rows == 2


def test_a_folder_may_wait_for_its_first_image(somewhere):
    (somewhere / "images").mkdir()
    assert stand_up("--images", "images", "--store", "store", *SPACE)["watch-images"].scan().files.num_rows == 0


def test_the_demo_is_not_taken_for_what_is_meant_for_images_of_ones_own(somewhere):
    for words in (["--classes", "cats,dogs"], ["--layout", "classes"]):
        with pytest.raises(InputError, match="--images: the folder of images is missing"):
            parse(words)
    assert parse(["--epochs", "3"])[0] == {"epochs": 3}


@pytest.fixture
def photos(somewhere: Path) -> Path:
    return toy.pictures(somewhere / "photos", per_class=1)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--images", "nothing"], "there is no folder"),
        (["--images", "photos/cats/000.png"], "is a file"),
        (["--images", "~/photos"], "there is no folder"),
        (["--images", "{{ photos }}"], "placeholder"),
        (["--store", "photos"], "is in the image folder"),
        (["--store", "photos/cats/store"], "is in the image folder"),
        (["--store", "ftp://host/store"], "expected a path"),
        (["--labels", "nothing.csv"], "nothing.csv"),
        (["--classes", "cats,wolves"], "wolves"),
        (["--weights", "nothing.h5"], "nothing.h5"),
        (["--image-size", "16"], "at least 32"),
        (["--layout", "splits"], "splits"),
        (["--images", os.fsdecode(b"photos-\xff")], "is not UTF-8"),
        (["--store", os.fsdecode(b"store-\xff")], "is not UTF-8"),
    ],
    ids=str,
)
def test_what_runs_refuse_up_refuses(photos, words, told):
    given = {"--images": "photos", "--store": "store", "--weights": "random", "--image-size": "32"}
    given |= dict(zip(words[::2], words[1::2], strict=True))
    with pytest.raises((InputError, WeightsError)) as error:
        stand_up(*(word for pair in given.items() for word in pair))
    assert told in str(error.value)


def test_roots_of_the_environment_hold_for_what_up_is_given(photos, monkeypatch):
    monkeypatch.setenv(IMAGE_ROOTS, str(photos))
    monkeypatch.setenv(STORE_ROOTS, str(photos.parent / "stores"))
    words = ["--images", "photos", *SPACE, "--store"]
    options = stand_up(
        *words, "stores/one", home=photos.parent.parent / "home"
    )  # its own study lies in no root of the environment
    assert options["batch-size-study"].store == str(photos.parent / "stores" / "one")
    with pytest.raises(InputError, match=f"--store: .*{STORE_ROOTS}"):
        stand_up(*words, "elsewhere")
    with pytest.raises(InputError, match="--outside-links"):
        stand_up(*words, "stores/one", "--outside-links")
    (photos.parent / "labels.csv").write_text("path,class\ncats/000.png,cat\n")
    with pytest.raises(InputError, match=f"--labels: .*{IMAGE_ROOTS}"):
        stand_up(*words, "stores/one", "--labels", "labels.csv")


def test_what_the_refusal_of_outside_links_advises_works(photos, monkeypatch):
    monkeypatch.setenv(IMAGE_ROOTS, str(photos))
    words = ["--images", "photos", "--store", "store", *SPACE, "--outside-links"]
    with pytest.raises(InputError) as error:
        stand_up(*words)
    assert f"set {IMAGE_ROOTS}=/ where" in str(error.value)
    monkeypatch.setenv(IMAGE_ROOTS, "/")
    assert stand_up(*words)["extract-and-train"].outside_links


def test_buckets_are_taken_as_they_are(bucket, somewhere):
    for name in ("cats", "dogs"):
        picture = toy.picture(somewhere / f"{name}.png", len(name))
        (bucket / "photos" / name / "1.png").write_bytes(picture.read_bytes())
    (bucket / "tables" / "labels.csv").write_text("path,class\ncats/1.png,cat\n")
    words = ["--images", f"{bucket}/photos", "--store", f"{bucket}/store", *SPACE]
    assert stand_up(*words)["watch-images"].scan().files.num_rows == 2
    options = stand_up(*words, "--labels", f"{bucket}/tables/labels.csv")
    assert options["watch-images"].scan().files.num_rows == 1


def triggered(document: dict, name: str, folder: Path) -> bool:
    """Whether an event of a folder starts a deployment."""
    (deployment,) = [each for each in document["deployments"] if each["name"] == name]
    found = [DeploymentEventTrigger.model_validate(each) for each in deployment.get("triggers", [])]
    event = {"prefect.resource.id": resource_id(str(folder))}
    return any(trigger.match.matches(event) for trigger in found)


def test_arrivals_start_the_deployment_of_their_folder_alone(photos):
    inbox, out = photos.parent / "inbox", photos.parent / "p.parquet"
    inbox.mkdir()
    words = ["--images", "photos", "--store", "store", *SPACE, "--inbox", "inbox", "--predictions", "p.parquet"]
    document, _ = prepare(Path.cwd() / "home", parse(words)[0])
    assert [triggered(document, "extract-and-train", folder) for folder in (photos, inbox)] == [True, False]
    assert [triggered(document, "predict", folder) for folder in (photos, inbox)] == [False, True]
    predicting = parameters_of(document, "predict")
    assert {name: predicting[name] for name in ("images", "out", "append")} == {
        "images": str(inbox),
        "out": str(out),
        "append": True,
    }
    assert stand_up(*words)["watch-images"].images == str(photos)
    without, _ = prepare(Path.cwd() / "home", parse(words[:-4])[0])
    assert not triggered(without, "predict", inbox)
    assert triggered(without, "extract-and-train", photos)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--inbox", "photos"], "share images"),
        (["--inbox", "photos/cats"], "share images"),
        (["--inbox", "."], "share images"),
        (["--inbox", "nothing"], "there is no folder"),
        (["--inbox", "inbox", "--predictions", "p.txt"], "should end in"),
        (["--predictions", "p.csv"], "--inbox"),
    ],
    ids=" ".join,
)
def test_an_inbox_that_runs_would_refuse_up_refuses(photos, words, told):
    (photos.parent / "inbox").mkdir()
    with pytest.raises(InputError) as error:
        stand_up("--images", "photos", "--store", "store", *SPACE, *words)
    assert told in str(error.value)


def test_the_watcher_of_an_inbox_sees_images_without_labels(photos):
    toy.picture(photos / "loose.png", 1)
    assert WatchOptions(images=str(photos), layout="none").scan().files.num_rows == 3
    with pytest.raises(ValueError, match="--layout none"):
        WatchOptions(images=str(photos), layout="none", labels="labels.csv")
