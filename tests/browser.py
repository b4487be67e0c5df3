"""A headless Chromium, where there is one: how a page looks at a width, and what a person finds on the pages of a server."""

import html
import json
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome")
# The page lies in a frame, for a window cannot be as narrow as a phone; what it forbids itself holds there too.
FRAME = """<!doctype html>
<title>not loaded</title>
<style>body {{ margin: 0 }} iframe {{ border: 0; width: {width}px; height: {height}px; color-scheme: {scheme} }}</style>
<iframe srcdoc="{page}"></iframe>
<script>
onload = () => {{
  const page = document.querySelector("iframe").contentDocument.documentElement;
  document.title = `${{page.scrollWidth - page.clientWidth}} ${{page.scrollHeight}}`;
}};
</script>
"""


@dataclass(frozen=True)
class Look:
    """picture: the upper part of a page. overflow: by how many pixels the page is wider than its window. height: of all of it."""

    picture: Image.Image
    overflow: int
    height: int


def browser(profile: Path) -> list[str]:
    """The command of a browser with a profile of its own. Skips where there is none."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"there is no browser here: none of {', '.join(NAMES)} is installed")
    return [
        program,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={profile}",
    ]


def look(page: str, folder: Path, width: int, height: int = 1600, is_dark: bool = False) -> Look:
    """Let a browser show a page in a window of this size, in pixels. Skips where there is no browser."""
    scheme, framed, picture = "dark" if is_dark else "light", folder / "framed.html", folder / "page.png"
    framed.write_text(FRAME.format(width=width, height=height, scheme=scheme, page=html.escape(page)))

    asked = ["--hide-scrollbars", "--dump-dom", f"--screenshot={picture}", f"--window-size={width},{height}"]
    done = subprocess.run(
        [*browser(folder / "profile"), *asked, framed.as_uri()], capture_output=True, text=True, timeout=300
    )
    found = re.search(r"<title>(-?\d+) (\d+)</title>", done.stdout)
    assert found, f"the page did not load: {done.stderr}"
    with Image.open(picture) as image:
        return Look(image.convert("RGB"), int(found[1]), int(found[2]))


@dataclass
class Tab:
    """A page that scripts build: driven by Chromium's DevTools protocol, as a person would drive it."""

    connection: ClientConnection
    calls: int = 0

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.calls += 1
        self.connection.send(json.dumps({"id": self.calls, "method": method, "params": parameters}))
        while (answer := json.loads(self.connection.recv(timeout=60))).get("id") != self.calls:
            pass  # an event
        return answer["result"]

    def evaluate(self, script: str) -> Any:
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def open(self, address: str) -> None:
        self.call("Page.navigate", url=address)

    def type(self, text: str) -> None:
        """Into the field of that page that is the first one, and send its form."""
        self.wait_for("document.querySelector('input')")
        self.evaluate("document.querySelector('input').focus()")
        self.call("Input.insertText", text=text)
        self.evaluate("document.querySelector('button[type=submit]').click()")

    def press_until(self, label: str, text: str) -> None:
        """Press what bears this label until the text is seen: a page that is still loading loses a click."""
        found = (
            f"[...document.querySelectorAll('body *')].filter(e => e.innerText?.trim() == {json.dumps(label)}).pop()"
        )
        events = "['mousedown', 'click'].map(name => new MouseEvent(name, {bubbles: true}))"
        self.wait_for(f"{_holds(text)} || void {events}.forEach(event => {found}?.dispatchEvent(event))", every=1.0)

    def wait_for_text(self, text: str) -> None:
        self.wait_for(_holds(text))

    def wait_for(self, script: str, seconds: float = 60, every: float = 0.1) -> None:
        deadline = time.monotonic() + seconds
        while not self.evaluate(f"!!({script})"):
            assert time.monotonic() < deadline, self.evaluate("location.href + document.body.innerText")
            time.sleep(every)


def _holds(text: str) -> str:
    return f"document.body.innerText.includes({json.dumps(text)})"


@contextmanager
def tab(folder: Path) -> Iterator[Tab]:
    """An empty page of a browser. Skips where there is none."""
    command = [*browser(folder / "profile"), "--remote-debugging-port=0", "--window-size=1300,1000", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with connect(_address(folder / "profile" / "DevToolsActivePort"), max_size=None, proxy=None) as connection:
            yield Tab(connection)
    finally:
        process.terminate()
        process.wait()


def _address(port_file: Path) -> str:
    deadline = time.monotonic() + 60
    while not (port_file.exists() and port_file.read_text().count("\n")):
        assert time.monotonic() < deadline, "the browser does not answer"
        time.sleep(0.1)
    port = port_file.read_text().splitlines()[0]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=60) as answer:
        return next(page["webSocketDebuggerUrl"] for page in json.load(answer) if page["type"] == "page")
