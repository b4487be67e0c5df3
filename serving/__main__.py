"""`python -m serving`: answer over HTTP what the images of a request show."""

import argparse
import asyncio
import ipaddress
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import uvicorn

from serving.app import create_app
from serving.connections import BoundedProtocol
from serving.limits import MB, Limits
from serving.model import Following, Options
from storage.backend.paths import place
from storage.cli.bounds import at_least, between
from storage.cli.commands import describe, say
from storage.errors import InputError
from storage.text import as_flags
from vision.engines.selection import EngineName

TOKEN = "EXTRACT_AND_TRAIN_TOKEN"  # environment variable
SHORTEST_TOKEN = 16
STOP_SECONDS = 30  # for requests in flight


class _WithFlags(logging.Formatter):
    """Writes a parameter that a message names as the flag of this command."""

    def format(self, record: logging.LogRecord) -> str:
        return as_flags(super().format(record))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise InputError(f"{message}; see --help")


def main(arguments: list[str] | None = None) -> int:
    """Serve until a signal comes, and return the exit status."""
    try:
        return _run(parse(sys.argv[1:] if arguments is None else arguments))
    except SystemExit as finished:  # --help
        return int(finished.code or 0)
    except KeyboardInterrupt:
        say("error: interrupted")
        return 130
    except Exception as error:
        if not hasattr(error, "exit_status") and not isinstance(error, OSError):
            logging.getLogger("serving").exception("the server failed")
        say(f"error: {describe(error)}")
        return getattr(error, "exit_status", 1)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The flags. Raises InputError."""
    parser = _Parser(
        prog="python -m serving",
        description="Classify images over HTTP with a head of a store, and show a page to try it.",
        epilog="Exit status: 0 stopped by SIGTERM, 1 failure of the program or the machine, 2 bad arguments, 130 interrupted.",
        allow_abbrev=False,
    )
    defaults = Limits()
    add = parser.add_argument
    add("--store", metavar="FOLDER", type=place, default="./store", help="the store (./store)")
    add("--head", metavar="NAME", help="a head, by default the current one, which is followed")
    add("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    add("--port", metavar="N", type=between(0, 65535, int), default=8000, help="port, 0 for any free one (8000)")
    add("--engine", choices=get_args(EngineName), default="auto", help="library that computes features (auto)")
    add("--workers", metavar="N", type=at_least(1, int), help="processes that compute (one per core)")
    add("--weights", metavar="WEIGHTS", help="imagenet, random or a file, once for a store without its weights")
    add("--images", metavar="FOLDER", type=place, help="folder of the training images, to show the nearest ones")
    add("--token-file", metavar="FILE", type=Path, help=f"file with the token of clients (the variable {TOKEN})")
    add("--no-token", action="store_true", help="allow a host that others reach to have no token")
    for name, default, unit, text in (
        ("image-mb", defaults.image_bytes // MB, "N", "most MB of one file"),
        ("request-mb", defaults.request_bytes // MB, "N", "most MB of a request"),
        ("images", defaults.images, "N", "most images of a request"),
        ("waiting", defaults.waiting_images, "N", "most images that wait"),
        ("requests", defaults.open_requests, "N", "most requests at a time"),
    ):
        add(f"--max-{name}", metavar=unit, type=at_least(1, int), default=default, help=f"{text} ({default})")
    return parser.parse_args(arguments)


def options_of(given: argparse.Namespace) -> Options:
    """What to serve, from the flags."""
    limits = Limits(
        image_bytes=given.max_image_mb * MB,
        request_bytes=given.max_request_mb * MB,
        images=given.max_images,
        waiting_images=given.max_waiting,
        open_requests=given.max_requests,
        held_bytes=max(Limits().held_bytes, 2 * given.max_request_mb * MB),
    )
    return Options(given.store, given.head, given.engine, given.workers, given.weights, given.images, limits=limits)


def token_of(given: argparse.Namespace) -> str | None:
    """The token that clients must send; None: any client may ask. Raises InputError."""
    token, source = os.environ.get(TOKEN), TOKEN
    if given.token_file is not None:
        token, source = _first_line(given.token_file), "--token-file"
    if token is None:
        if not given.no_token and not _is_loopback(given.host):
            raise InputError(
                f"--host {given.host} is reached by other machines, so clients need a token: give it with --token-file or "
                f"in {TOKEN}, or allow everybody with --no-token"
            )
        return None
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise InputError(f"{source}: a token has at least {SHORTEST_TOKEN} ASCII characters and no spaces")
    return token


def _first_line(path: Path) -> str:
    try:
        return (path.read_text().splitlines() or [""])[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--token-file cannot be read: {describe(error)}") from error


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _run(given: argparse.Namespace) -> int:
    if find_spec("python_multipart") is None:
        raise InputError("python-multipart is not installed: pip install -c constraints.txt -e '.[serve]'")
    options, token = options_of(given), token_of(given)
    handler = logging.StreamHandler()
    handler.setFormatter(_WithFlags("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    for name in ("uvicorn", "python_multipart"):  # they warn of each request that is no HTTP or no form
        logging.getLogger(name).setLevel(logging.ERROR)
    with _listening(given.host, given.port) as listener:
        return asyncio.run(_serve(options, token, listener))


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket with the address, which takes no connection yet. Raises InputError if there is no such address."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:
        raise InputError(f"--host {host} is not an address of this machine: {describe(error)}") from error
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            raise OSError(f"--port {port} of {host} cannot be used: {describe(error)}") from error
        yield listener


class _Server(uvicorn.Server):
    """Stops at a signal without raising it again, so that the command returns its own status."""

    @property
    def signals(self) -> list[int]:
        """The signals that came."""
        return self._captured_signals

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


async def _serve(options: Options, token: str | None, listener: socket.socket) -> int:
    following = await Following.start(options)
    config = uvicorn.Config(
        create_app(following, token),
        http=BoundedProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    server = _Server(config)
    host, port = listener.getsockname()[:2]
    say(f"serving head {following.model.head.name} at http://{f'[{host}]' if ':' in host else host}:{port}")
    await server.serve([listener])
    with suppress(Exception):
        await following.close()
    if signal.SIGINT in server.signals:
        raise KeyboardInterrupt
    return 0


if __name__ == "__main__":
    sys.exit(main())
