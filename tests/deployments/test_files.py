"""compose.yaml, the Dockerfile and the units, which nothing here can run: what can be read of them holds."""

import configparser
import json
import os
import re
import shlex

import prefect.settings
import pytest
import yaml

from deployments.definitions import PROJECT
from deployments.settings import POOL, SERVER, WORKER, server_settings
from flows.cli.command import parse
from flows.options.roots import IMAGE_ROOTS, STORE_ROOTS, WEIGHTS_ROOTS
from flows.registry import WATCH
from serving.__main__ import TOKEN, token_of
from serving.__main__ import parse as parse_serving
from storage.errors import InputError

FOLDER = PROJECT / "deployments"
UNITS = sorted((FOLDER / "systemd").glob("*.service"))
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
CONTAINERS = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
OF_SERVER = {name: value for name, value in server_settings("http://127.0.0.1:4200", password="").items() if value}
ROOTS = {IMAGE_ROOTS, STORE_ROOTS, WEIGHTS_ROOTS}


class Unit(configparser.RawConfigParser):
    """A unit file: keys may come several times, and keep their case."""

    def __init__(self, text: str):
        super().__init__(strict=False)
        self.optionxform = str
        numbered = (
            f"{line.partition('=')[0]}.{n}={line.partition('=')[2]}" if re.match(r"\w+=", line) else line
            for n, line in enumerate(text.splitlines())
        )
        self.read_string("\n".join(numbered))

    def values(self, section: str, key: str) -> list[str]:
        return [value for name, value in self[section].items() if name.partition(".")[0] == key]


def service_of(unit_or_container: str) -> str:
    return next(name for name in ("server", "worker", "watcher") if name in unit_or_container)


@pytest.fixture(params=UNITS, ids=lambda path: path.stem)
def unit(request):
    return service_of(request.param.stem), Unit(request.param.read_text())


def test_there_is_a_unit_for_each_service():
    assert [service_of(path.stem) for path in UNITS] == ["server", "watcher", "worker"]


def test_a_unit_has_the_settings_of_its_service(unit):
    service, content = unit
    found = dict(value.split("=", 1) for value in content.values("Service", "Environment"))
    wanted = OF_SERVER if service == "server" else WORKER
    assert wanted.items() <= found.items()
    assert (found.keys() >= ROOTS) == (service != "server")
    (secrets,) = content.values("Service", "EnvironmentFile")
    assert secrets.startswith("/etc/")


def test_a_unit_comes_up_again_and_its_command_is_one_that_there_is(unit):
    service, content = unit
    assert content.values("Service", "Restart") == ["always"]
    assert content.values("Install", "WantedBy") == ["multi-user.target"]
    (folder,) = content.values("Service", "WorkingDirectory")
    (line,) = content.values("Service", "ExecStart")
    program, *words = shlex.split(line)
    assert program.startswith(f"{folder}/.venv/bin/")
    check_command(service, [os.path.basename(program), *words])


@pytest.mark.parametrize("service", ["server", "worker", "watcher"])
def test_a_container_has_the_settings_of_its_service(service):
    container = CONTAINERS[service]
    wanted = OF_SERVER if service == "server" else WORKER
    assert wanted.items() <= container["environment"].items()
    assert (container["environment"].keys() >= ROOTS) == (service != "server")
    assert container["restart"] == "unless-stopped"
    words = shlex.split(container["command"])
    if words[:2] == ["sh", "-c"]:
        reaping, words = words[2].split("; exec ")[0], shlex.split(words[2].split("; exec ")[1])
        assert reaping == "python -m flows.reap"
    check_command(service, words)


def test_every_setting_is_one_that_prefect_has(unit):
    _, content = unit
    names = {value.partition("=")[0] for value in content.values("Service", "Environment")}
    for container in CONTAINERS.values():
        names |= set(container.get("environment", {}))
    ours = [name for name in names | set(SERVER) | set(WORKER) if name.startswith("PREFECT_")]
    assert len(ours) > 10
    for name in ours:
        assert getattr(prefect.settings, name) is not None


def check_command(service: str, words: list[str]) -> None:
    if service == "watcher":
        assert words[:2] == ["python", WATCH.path]
        parse(WATCH, words[2:])
    elif service == "worker":
        assert words == ["prefect", "worker", "start", "--pool", POOL, "--install-policy", "never"]
    else:
        assert words[:3] == ["prefect", "server", "start"]


def test_what_is_reached_from_outside_is_on_loopback_alone():
    published = {name: container["ports"] for name, container in CONTAINERS.items() if "ports" in container}
    assert published == {"server": ["127.0.0.1:4200:4200"], "serving": ["127.0.0.1:8000:8000"]}
    server = Unit((FOLDER / "systemd" / "extract-and-train-server.service").read_text())
    assert "--host 127.0.0.1" in server.values("Service", "ExecStart")[0]


def test_the_container_that_serves_has_arguments_that_there_are_and_a_token(monkeypatch):
    container, (stage,) = CONTAINERS["serving"], re.findall(r"AS serving\n(.*?)\nFROM", DOCKERFILE, re.S)
    assert container["build"]["target"] == "serving"
    (entry,) = re.findall(r"ENTRYPOINT (.*)", stage)
    program, *words = json.loads(entry)
    assert (program, words[:2]) == ("python", ["-m", "serving"])
    given = parse_serving([*words[2:], *shlex.split(container["command"])])
    assert f"127.0.0.1:{given.port}:{given.port}" in container["ports"]
    monkeypatch.delenv(TOKEN, raising=False)
    with pytest.raises(InputError, match="token"):
        token_of(given)
    assert TOKEN in container["environment"]


def test_containers_wait_only_for_containers_that_there_are():
    for name, container in CONTAINERS.items():
        assert set(container.get("depends_on", {})) <= set(CONTAINERS) - {name}
    volumes = yaml.safe_load((FOLDER / "compose.yaml").read_text())["volumes"]
    used = {volume.partition(":")[0] for each in CONTAINERS.values() for volume in each.get("volumes", [])}
    assert {name for name in used if "$" not in name} == set(volumes)


def test_the_image_is_made_of_what_is_there_and_let_in():
    lines = (FOLDER / "Dockerfile").read_text().splitlines()
    copied = [word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]]
    let_in = {line[1:] for line in (PROJECT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(copied) == let_in
    assert all((PROJECT / name).exists() for name in copied)
    assert any(line.startswith("USER ") and line != "USER root" for line in lines)
