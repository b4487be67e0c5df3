"""The nearest training pictures of an answer."""

import base64
import io
import shutil
from dataclasses import replace

import pytest
from PIL import Image

from serving.nearest import MOST
from storage.backend.paths import place
from storage.layout import Store
from storage.manifest.versions import latest_version, read_version
from tests.serving.conftest import SPACE, options, serving


@pytest.fixture(scope="module")
def nearby(golden):
    with serving(replace(options(golden), images=place(golden / "images"))) as found:
        found.run(found.following.model.nearest.ready())
        yield found


def trained_on(golden, server) -> list[dict]:
    store = Store(place(golden / "store"), SPACE)
    files = read_version(store, server.following.model.head.version).read_files(store).to_pylist()
    return [file for file in files if (file["split"], file["status"]) == ("train", "ok")]


def test_a_training_picture_is_nearest_to_itself_with_its_class_and_thumbnail(golden, nearby):
    file = trained_on(golden, nearby)[0]
    data = (golden / "images" / file["path"].decode()).read_bytes()
    (answer,) = nearby.post(data, params={"neighbours": 5}).json()["predictions"]
    found = answer["neighbours"]
    assert len(found) == 5
    assert set(found[0]) == {"path", "class", "similarity", "thumbnail"}
    assert found[0]["similarity"] == pytest.approx(1, abs=1e-5)
    assert file["path"].decode() in {one["path"] for one in found if one["similarity"] > 0.99999}
    assert [one["similarity"] for one in found] == sorted((one["similarity"] for one in found), reverse=True)
    names = {one["path"].decode() for one in trained_on(golden, nearby)}
    assert {one["path"] for one in found} <= names
    with Image.open(io.BytesIO(base64.b64decode(found[0]["thumbnail"]))) as image:
        assert (image.format, image.size) == ("JPEG", (192, 192))


def test_each_image_of_a_request_has_its_own_and_what_cannot_be_read_none(nearby, pictures):
    files = [("files", ("a", pictures[0])), ("files", ("b", b"text")), ("files", ("c", pictures[3]))]
    with nearby.client() as client:
        found = client.post("/predict?neighbours=2", files=files).json()["predictions"]
    assert [one["neighbours"] and len(one["neighbours"]) for one in found] == [2, None, 2]
    alone = nearby.post(pictures[3], params={"neighbours": 2}).json()["predictions"][0]
    assert alone["neighbours"] == found[2]["neighbours"]


def test_without_the_folder_of_images_and_for_changed_files_there_is_the_name_alone(golden, server, pictures):
    server.run(server.following.model.nearest.ready())
    (answer,) = server.post(pictures[0], params={"neighbours": 3}).json()["predictions"]
    assert [one["thumbnail"] for one in answer["neighbours"]] == [None, None, None]
    assert all(one["path"] and one["class"] for one in answer["neighbours"])


def test_nobody_gets_neighbours_unasked(nearby, pictures):
    assert nearby.post(pictures[0]).json()["predictions"][0]["neighbours"] is None


@pytest.mark.parametrize("given", ["-1", str(MOST + 1), "x", "9" * 400, "²"])
def test_an_impossible_number_is_refused(nearby, pictures, given):
    answer = nearby.post(pictures[0], params={"neighbours": given})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_neighbours")


def test_a_store_without_readable_features_answers_without_neighbours(golden, tmp_path, pictures, caplog):
    shutil.copytree(golden, tmp_path / "copy")
    store = Store(place(tmp_path / "copy/store"), SPACE)
    version = latest_version(store)
    assert version is not None
    shutil.rmtree(store.shards)
    shutil.rmtree(store.cache / "pooled", ignore_errors=True)
    with serving(options(tmp_path / "copy")) as found:
        found.run(found.following.model.nearest.ready())
        (answer,) = found.post(pictures[0], params={"neighbours": 3}).json()["predictions"]
    assert (answer["status"], answer["neighbours"]) == ("ok", None)
    assert "answers have no neighbours" in caplog.text
