"""`python -m serving`: its flags, its errors in one line, and how it ends."""

import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import httpx
import pytest

from serving import __main__ as command
from serving.__main__ import TOKEN, main, parse, token_of
from storage.errors import InputError
from tests.test_layers import PROJECT


@pytest.fixture(autouse=True)
def _no_token(monkeypatch):
    monkeypatch.delenv(TOKEN, raising=False)


@pytest.mark.parametrize(
    ("given", "status", "text"),
    [
        (["--store", "nowhere"], 2, "there is no store at"),
        (["--port", "70000"], 2, "expected 0 to 65535"),
        (["--port", "x"], 2, "expected a number"),
        (["--workers", "0"], 2, "expected 1 or more"),
        (["--max-images", "0"], 2, "expected 1 or more"),
        (["--engine", "onnx"], 2, "--engine"),
        (["--nothing"], 2, "--nothing"),
        (["--head", "../current"], 2, "32 hex digits"),
        (["--head", "0" * 32], 2, "has no head"),
        (["--host", "0.0.0.0"], 2, "--token-file"),
        (["--host", "nowhere.invalid", "--no-token"], 2, "--host nowhere.invalid"),
        (["--token-file", "missing"], 2, "--token-file cannot be read"),
        (["--token-file", "empty"], 2, "at least 16"),
        (["--token-file", "."], 2, "--token-file cannot be read"),
        (["--store", "old"], 2, "give them once as --weights"),
    ],
)
def test_what_cannot_be_served_ends_in_one_line(golden, tmp_path, monkeypatch, capsys, given, status, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").touch()
    shutil.copytree(PROJECT / "tests/golden/store", tmp_path / "old")
    store = [] if "--store" in given else ["--store", str(golden / "store")]
    assert main([*store, "--port", "0", *given]) == status
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1
    assert text in errors[0]
    assert "Traceback" not in "\n".join(lines)


def test_a_port_that_is_taken_ends_in_one_line(golden, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["--store", str(golden / "store"), "--port", port]) == 1
    assert f"error: --port {port} of 127.0.0.1 cannot be used" in capsys.readouterr().err


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.9.9.9"])
def test_loopback_needs_no_token(host):
    assert token_of(parse(["--host", host])) is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "example.com", ""])
def test_any_other_host_needs_one_or_a_word_that_there_is_none(host, monkeypatch):
    with pytest.raises(InputError, match="token"):
        token_of(parse(["--host", host]))
    assert token_of(parse(["--host", host, "--no-token"])) is None
    monkeypatch.setenv(TOKEN, "0123456789abcdef")
    assert token_of(parse(["--host", host])) == "0123456789abcdef"


def test_a_token_file_overrides_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv(TOKEN, "of the environment")
    (tmp_path / "token").write_text("abcdefghijklmnop\n")
    assert token_of(parse(["--token-file", str(tmp_path / "token")])) == "abcdefghijklmnop"


@pytest.mark.parametrize("token", ["", "short", "with spaces in the middle", "\u00e4" * 20])
def test_a_token_that_no_header_carries_or_anybody_guesses_is_refused(token, monkeypatch):
    monkeypatch.setenv(TOKEN, token)
    with pytest.raises(InputError, match=TOKEN):
        token_of(parse([]))


def test_a_missing_library_names_the_extra(golden, monkeypatch, capsys):
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert main(["--store", str(golden / "store")]) == 2
    assert "'.[serve]'" in capsys.readouterr().err


@contextmanager
def running(golden, *more: str):
    """The command in a process of its own, and its address."""
    words = [sys.executable, "-m", "serving", "--store", str(golden / "store"), "--port", "0", *more]
    process = subprocess.Popen(words, cwd=PROJECT, stderr=subprocess.PIPE, text=True)
    lines: list[str] = []
    try:
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"at (http://\S+)", line):
                yield process, found[1], lines
                return
        pytest.fail("".join(lines))
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_lets_requests_finish_and_leaves_no_child(golden, pictures, sent, status):
    with running(golden, "--workers", "2") as (process, url, _):
        children = [pid for thread in os.listdir(f"/proc/{process.pid}/task") for pid in _children(process.pid, thread)]
        assert len(children) == 2
        answers = []

        def ask():
            files = [("files", ("a.png", pictures[0]))] * 32
            answers.append(httpx.post(f"{url}/predict", files=files, timeout=60, trust_env=False).status_code)

        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        while "open_requests 0.0" in httpx.get(f"{url}/metrics", trust_env=False).text:
            pass
        time.sleep(0.3)
        process.send_signal(sent)
        for thread in threads:
            thread.join()
        assert process.wait(60) == status
        assert "Traceback" not in process.stderr.read()
        assert answers == [200] * 6
        assert not any(os.path.exists(f"/proc/{pid}") for pid in children)


def _children(pid: int, thread: str) -> list[int]:
    with open(f"/proc/{pid}/task/{thread}/children") as file:
        return [int(word) for word in file.read().split()]


@pytest.mark.slow
def test_a_signal_while_it_loads_ends_it(golden):
    words = [sys.executable, "-m", "serving", "--store", str(golden / "store"), "--port", "0"]
    process = subprocess.Popen(words, cwd=PROJECT, stderr=subprocess.PIPE, text=True)
    try:
        assert "worker" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read().splitlines()[-1] == "error: interrupted"
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_a_token_guards_the_command(golden, pictures, tmp_path):
    (tmp_path / "token").write_text("0123456789abcdef\n")
    with running(golden, "--workers", "1", "--token-file", str(tmp_path / "token")) as (_, url, _):
        given = {"Content-Type": "image/png"}
        for headers, status in ((given, 401), (given | {"Authorization": "Bearer 0123456789abcdef"}, 200)):
            answer = httpx.post(f"{url}/predict", content=pictures[0], headers=headers, trust_env=False, timeout=60)
            assert answer.status_code == status


def test_the_log_names_parameters_as_flags():
    record = logging.LogRecord("serving", logging.INFO, "", 0, "as `%s` requests", ("workers",), None)
    assert command._WithFlags("%(message)s").format(record) == "as --workers requests"
