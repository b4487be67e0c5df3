"""A real server in a thread, whose jobs run in this process: a request costs milliseconds."""

import asyncio
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from serving.app import create_app
from serving.connections import BoundedProtocol
from serving.limits import Limits
from serving.model import Following, Options
from storage.backend.paths import place
from workers.classifier import Classifier

GOLDEN = Path(__file__).parents[1] / "golden"
SPACE = "c520172344d0d8c6793f7c63de7e8a93"
PLAIN, VARIED = "7b8382882706f0e78681c2090ee710ad", "17d30c899d1afd1f8dde78247b3c0c5b"  # VARIED is the current one


class Server:
    """url: its address. following: what it serves. run: runs a coroutine in its loop."""

    def __init__(self, url: str, following: Following, loop: asyncio.AbstractEventLoop):
        self.url, self.following, self._loop = url, following, loop

    def run(self, coroutine) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def client(self, **more) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False, **more)

    def post(self, content: bytes, kind: str = "image/png", **more) -> httpx.Response:
        with self.client() as client:
            return client.post("/predict", content=content, headers={"Content-Type": kind}, **more)


@contextmanager
def serving(options: Options, token: str | None = None) -> Iterator[Server]:
    ready, found = threading.Event(), dict[str, Any]()

    async def main() -> None:
        try:
            found["following"] = following = await Following.start(options)
            listener = socket.create_server(("127.0.0.1", 0))
            config = uvicorn.Config(
                create_app(following, token), http=BoundedProtocol, ws="none", log_config=None, lifespan="on"
            )
            found["server"], found["loop"] = uvicorn.Server(config), asyncio.get_running_loop()
            found["url"] = f"http://127.0.0.1:{listener.getsockname()[1]}"
            listener.listen()
            ready.set()
            await found["server"].serve([listener])
        finally:
            ready.set()

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    ready.wait(300)
    try:
        yield Server(found["url"], found["following"], found["loop"])
    finally:
        if "server" in found:
            found["server"].should_exit = True
        thread.join(60)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden store with its weights, and its images."""
    root = tmp_path_factory.mktemp("serving")
    for name in ("images", "store"):
        shutil.copytree(GOLDEN / name, root / name, copy_function=shutil.copyfile)
    Classifier.load(root / "store", weights="random")
    return root


@pytest.fixture(scope="session")
def pictures(golden: Path) -> list[bytes]:
    paths = sorted((golden / "images").rglob("*.png"))
    return [path.read_bytes() for path in paths if path.stem.isdecimal()]


@pytest.fixture(scope="session")
def server(golden: Path) -> Iterator[Server]:
    """A server with the limits of the command line."""
    with serving(options(golden)) as found:
        yield found


def options(golden: Path, **limits: Any) -> Options:
    return Options(place(golden / "store"), runner="inline", limits=Limits(**limits))


Serve = Callable[..., Server]


@pytest.fixture
def serve(golden: Path) -> Iterator[Serve]:
    """Starts servers with other limits, for one test."""
    with ExitStack() as stack:
        yield lambda token=None, **limits: stack.enter_context(serving(options(golden, **limits), token))
