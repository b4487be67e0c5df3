"""What a client asks and gets: each form of a request, the answers of the library, and what cannot be read."""

import base64

import numpy as np
import pytest

from serving.schemas import Described, Error, Predictions, Unusable
from storage.reasons import MEANINGS
from tests.bad import BAD, JPEG, ODD
from workers.classifier import Classifier

FILE_PART = b'--x\r\nContent-Disposition: form-data; name="a"; filename="a.png"\r\n\r\n'


@pytest.fixture(scope="module")
def classifier(golden):
    return Classifier.load(golden / "store", threads=1)  # as a child has; more of them change the last digits


def test_every_form_of_a_request_gives_the_answers_of_the_library(server, classifier, pictures):
    some = pictures[:5]
    expected = classifier.predict(some)
    with server.client() as client:
        files = [("files", (f"{number}.png", data)) for number, data in enumerate(some)]
        form = client.post("/predict", files=files)
        json = client.post("/predict", json={"images": [base64.b64encode(data).decode() for data in some]})
        raw = [client.post("/predict", content=data, headers={"Content-Type": "image/png"}) for data in some]
    assert {form.status_code, json.status_code, *(each.status_code for each in raw)} == {200}
    found = [form.json()["predictions"], json.json()["predictions"], [each.json()["predictions"][0] for each in raw]]
    for predictions in found:
        assert [each["class"] for each in predictions] == [each.label for each in expected]
        rows = [list(each["probabilities"].values()) for each in predictions]
        assert np.allclose(rows, [each.probabilities for each in expected], atol=1e-6)
        assert all(each["probability"] == max(each["probabilities"].values()) for each in predictions)
    assert [each["name"] for each in found[0]] == ["0.png", "1.png", "2.png", "3.png", "4.png"]


def test_what_cannot_be_read_has_a_reason_beside_the_others(server, pictures):
    given = [("files", ("a", pictures[0])), ("files", ("b", b"text")), ("files", ("c", b"")), ("files", ("d", JPEG))]
    with server.client() as client:
        answer = client.post("/predict", files=given)
    assert answer.status_code == 200
    found = answer.json()["predictions"]
    assert [each["status"] for each in found] == ["ok", "quarantined", "quarantined", "ok"]
    assert [each["reason"] for each in found] == [None, "not_image", "zero_byte", None]
    assert all((each["class"] is None) == (each["message"] is not None) for each in found)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_image_is_refused_by_name_and_not_the_fault_of_the_server(server, name):
    code, data = BAD[name]
    answer = server.post(data)
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert code in MEANINGS
    assert answer.json()["message"]


@pytest.mark.parametrize("name", ODD)
def test_an_odd_image_is_classified_whatever_its_type_is_called(server, name):
    assert server.post(ODD[name][1], "application/octet-stream").status_code == 200


def test_the_square_is_what_the_network_sees(server, pictures):
    import io

    from PIL import Image

    from vision.pixels.decode import decode

    answer = server.post(pictures[0], params={"square": "1"}).json()["predictions"][0]
    with Image.open(io.BytesIO(base64.b64decode(answer["square"]))) as image:
        assert np.array_equal(np.asarray(image), decode(pictures[0], 32))
    assert server.post(pictures[0]).json()["predictions"][0]["square"] is None


@pytest.mark.parametrize(
    ("kind", "body", "status", "code"),
    [
        ("text/plain", b"x", 415, "unsupported_media_type"),
        ("application/x-www-form-urlencoded", b"x=1", 415, "unsupported_media_type"),
        ("", b"x", 415, "unsupported_media_type"),
        ("application/json", b"", 422, "invalid_json"),
        ("application/json", b"{", 422, "invalid_json"),
        ("application/json", b"[" * 100_000, 422, "invalid_json"),
        ("application/json", b"\xff\xfe", 422, "invalid_json"),
        ("application/json", b'{"images": []}', 422, "invalid_json"),
        ("application/json", b'{"images": "QUJD"}', 422, "invalid_json"),
        ("application/json", b'{"images": [1]}', 422, "invalid_json"),
        ("application/json", b'{"images": ["QUJD"], "more": 1}', 422, "invalid_json"),
        ("application/json", b'{"images": ["%%%"]}', 422, "invalid_base64"),
        ("application/json", '{"images": ["\u00e4\u00e4\u00e4\u00e4"]}'.encode(), 422, "invalid_base64"),
        ("multipart/form-data", b"x", 422, "invalid_form"),
        ("multipart/form-data; boundary=x", b"not a form", 422, "invalid_form"),
        ("multipart/form-data; boundary=x", b"--x--\r\n", 422, "no_image"),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n--x--\r\n', 422, "no_image"),
        ("multipart/form-data; boundary=x", FILE_PART.replace(b"a.png", b"") + b"\r\n--x--\r\n", 422, "no_image"),
        ("multipart/form-data; boundary=x", b"--x\r\nA: b\r\n\r\nb\r\n--x--\r\n", 422, "no_image"),
        ("multipart/form-data; boundary=x", b"", 422, "invalid_form"),
        ("multipart/form-data; boundary=x", FILE_PART + b"not ended", 422, "invalid_form"),
        ("multipart/form-data; boundary=x", FILE_PART + b"x\r\n" + FILE_PART, 422, "invalid_form"),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n' * 17, 422, "invalid_form"),
        ("multipart/form-data; boundary=x", b"--x\r\nA: " + b"b" * 100_000, 422, "invalid_form"),
        ("multipart/form-data; boundary=" + "x" * 300, b"--x", 422, "invalid_form"),
        ("image/png", b"", 422, "zero_byte"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_told_what_is_wrong(server, kind, body, status, code):
    answer = server.post(body, kind)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.json()["message"]


def test_other_paths_and_methods_are_refused_as_json(server):
    with server.client() as client:
        found = {"GET /nowhere": 404, "GET /predict": 405, "PUT /": 405, "POST /predict/": 404}
        for request, status in found.items():
            answer = client.request(*request.split())
            assert answer.status_code == status
            assert set(answer.json()) == {"code", "message"}


def test_the_server_describes_itself(server):
    with server.client() as client:
        model = client.get("/model").json()
        assert (model["classes"], model["version"], model["image_size"]) == (["cats", "dogs"], 3, 32)
        assert model["engine"].startswith("mnn")
        assert model["metrics"]["val_loss"] > 0
        assert client.get("/health").json() == {"status": "ok"}
        assert client.get("/ready").json() == {"status": "ready"}
        figures = client.get("/metrics").text
        assert 'requests_total{route="/model",status="200"}' in figures
        document = client.get("/openapi.json").json()
        assert set(document["paths"]) == {"/predict", "/model", "/health", "/ready", "/metrics"}
        bodies = document["paths"]["/predict"]["post"]["requestBody"]["content"]
        assert {"multipart/form-data", "application/json", "image/*"} <= set(bodies)
        for path in ("/docs", "/redoc"):
            assert client.get(path).status_code == 404


def test_answers_are_what_the_document_says(server, pictures):
    with server.client() as client:
        Described.model_validate(client.get("/model").json(), strict=True)
    Predictions.model_validate(server.post(pictures[0]).json(), strict=True)
    Unusable.model_validate(server.post(b"text").json(), strict=True)
    Error.model_validate(server.post(b"x", "text/plain").json(), strict=True)
