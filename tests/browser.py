"""A headless Chromium, where there is one: how a page looks at a width, and whether it is wider than that."""

import html
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

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


def look(page: str, folder: Path, width: int, height: int = 1600, is_dark: bool = False) -> Look:
    """Let a browser show a page in a window of this size, in pixels. Skips where there is no browser."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"there is no browser here: none of {', '.join(NAMES)} is installed")
    scheme, framed, picture = "dark" if is_dark else "light", folder / "framed.html", folder / "page.png"
    framed.write_text(FRAME.format(width=width, height=height, scheme=scheme, page=html.escape(page)))

    fixed = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
    asked = ["--dump-dom", f"--screenshot={picture}", f"--window-size={width},{height}"]
    command = [program, *fixed, *asked, f"--user-data-dir={folder / 'profile'}", framed.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    found = re.search(r"<title>(-?\d+) (\d+)</title>", done.stdout)
    assert found, f"the page did not load: {done.stderr}"
    with Image.open(picture) as image:
        return Look(image.convert("RGB"), int(found[1]), int(found[2]))
