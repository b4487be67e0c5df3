"""The page in a real browser: every way to give it a picture, with a mouse, a keyboard or a clipboard."""

import base64
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from tests.browser import Tab, tab

pytestmark = pytest.mark.slow

TOKEN = "0123456789abcdef"
WATCH = (
    "window.violations = []; addEventListener('securitypolicyviolation', e => violations.push(e.violatedDirective));"
)


@pytest.fixture
def files(golden, tmp_path) -> list[Path]:
    """Two pictures and a text."""
    (tmp_path / "notes.jpg").write_text("this is a text")
    return [*sorted((golden / "images" / "cats").glob("00[01].png")), tmp_path / "notes.jpg"]


@pytest.fixture
def page(server, tmp_path):
    with opened(tmp_path, server.url) as found:
        yield found


@contextmanager
def opened(folder: Path, url: str) -> Iterator[Tab]:
    with tab(folder) as found:
        found.call("Page.enable")
        found.call("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
        found.open(url)
        found.wait_for("document.querySelector('#model')?.textContent")
        yield found


def press(page: Tab, key: str, code: int, text: str = "") -> None:
    given = {"key": key, "code": key, "windowsVirtualKeyCode": code}
    page.call("Input.dispatchKeyEvent", type="keyDown", **given, **({"text": text} if text else {}))
    page.call("Input.dispatchKeyEvent", type="keyUp", **given)


def choose(page: Tab, files: list[Path]) -> None:
    root = page.call("DOM.getDocument")["root"]["nodeId"]
    node = page.call("DOM.querySelector", nodeId=root, selector="#files")["nodeId"]
    page.call("DOM.setFileInputFiles", nodeId=node, files=list(map(str, files)))


def check_answers(page: Tab) -> None:
    page.wait_for_text("3 of 3 answered")
    text = page.evaluate("document.body.innerText")
    assert "not_image: the file does not start like an image" in text
    assert page.evaluate("document.querySelectorAll('meter').length") == 4
    assert page.evaluate("[...document.querySelectorAll('figure img')].map(i => i.naturalWidth).join()") == "32,32"
    assert page.evaluate("violations.length") == 0
    elsewhere = "performance.getEntriesByType('resource').filter(e => !e.name.startsWith(location.origin)).length"
    assert page.evaluate(elsewhere) == 0


def test_chosen_pictures_get_answers_and_what_cannot_be_read_a_reason(page, files):
    choose(page, files)
    check_answers(page)


def test_dropped_pictures_get_answers(page, files):
    data = {"items": [], "files": list(map(str, files)), "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        page.call("Input.dispatchDragEvent", type=kind, x=300, y=150, data=data)
    check_answers(page)


def test_a_pasted_picture_gets_an_answer(page, files):
    data = base64.b64encode(files[0].read_bytes()).decode()
    page.evaluate(
        f"""{{
        const bytes = Uint8Array.from(atob("{data}"), c => c.charCodeAt(0));
        const clipboardData = new DataTransfer();
        clipboardData.items.add(new File([bytes], "image.png", {{type: "image/png"}}));
        document.body.dispatchEvent(new ClipboardEvent("paste", {{clipboardData, bubbles: true}})); }}"""
    )
    page.wait_for_text("1 of 1 answered")
    assert page.evaluate("document.querySelectorAll('meter').length") == 2


def test_a_keyboard_alone_chooses_pictures(page, files):
    page.call("Page.setInterceptFileChooserDialog", enabled=True)
    press(page, "Tab", 9)
    assert page.evaluate("document.activeElement.id") == "files"
    outline = "getComputedStyle(document.querySelector('#drop')).outlineStyle"
    assert page.evaluate(outline) == "solid"
    page.connection.send(json.dumps({"id": 0, "method": "Input.dispatchKeyEvent", "params": {
        "type": "keyDown", "key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}}))  # fmt: skip
    while json.loads(page.connection.recv(timeout=60)).get("method") != "Page.fileChooserOpened":
        pass
    choose(page, files)
    check_answers(page)
    press(page, "Tab", 9)
    assert page.evaluate("document.activeElement.tagName") == "A"


def test_a_server_with_a_token_asks_for_it(serve, tmp_path, files):
    with opened(tmp_path, serve(token=TOKEN).url) as page:
        page.wait_for_text("This server asks for a token")
        assert page.evaluate("document.activeElement.id") == "token"
        for typed, heard in (("wrong token, indeed", "The token is wrong"), (TOKEN, "2 classes")):
            page.evaluate("document.querySelector('#token').value = ''")
            page.call("Input.insertText", text=typed)
            press(page, "Enter", 13, "\r")
            page.wait_for_text(heard)
        choose(page, files)
        check_answers(page)


@pytest.mark.parametrize("is_dark", [False, True])
@pytest.mark.parametrize("width", [320, 1300])
def test_it_fits_a_phone_and_a_desk_in_both_schemes(page, files, width, is_dark):
    scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
    page.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500)
    page.call("Emulation.setEmulatedMedia", features=[scheme])
    choose(page, files)
    check_answers(page)
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    shown = page.call("Page.captureScreenshot", format="png")["data"]
    with Image.open(io.BytesIO(base64.b64decode(shown))) as picture:
        corner = picture.convert("L").getpixel((2, 2))
    assert (corner < 60) == is_dark
