"""What `up` makes of its arguments, before anything is started; and the profile that it leaves as it found it."""

import os
import socket
import subprocess
import sys

import pytest
from prefect.settings import (
    PREFECT_PROFILES_PATH,
    Profile,
    ProfilesCollection,
    load_profiles,
    save_profiles,
)
from prefect.settings import temporary_settings as with_settings

from deployments.__main__ import call, main, parse
from deployments.installation import Home
from deployments.keeper import services
from deployments.parameters import chosen_roots
from deployments.profile import NAME, leave_profile, use_profile
from flows.options.roots import IMAGE_ROOTS, STORE_ROOTS, WEIGHTS_ROOTS, is_below, roots
from storage.errors import InputError


def test_what_is_given_becomes_parameters_with_absolute_paths_and_nothing_else(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--images", "images", "--weights", "random", "--classes", "cats,dogs", "--epochs", "3", "--port", "4711"]
    assert parse(words) == (
        {
            "images": str(images),
            "store": str(tmp_path / "store"),
            "weights": "random",
            "classes": ["cats", "dogs"],
            "epochs": 3,
        },
        4711,
    )


@pytest.mark.parametrize("words", [["--store", "store"], ["--weights", "random"], ["--labels", "photos.csv"]])
def test_a_place_without_images_is_no_demo(words):
    with pytest.raises(InputError, match="--images: the folder of images is missing"):
        parse(words)


def test_runs_are_confined_to_what_was_given_unless_the_environment_says_otherwise(tmp_path, monkeypatch):
    given = {"images": "/data/photos", "store": "s3://bucket/store", "weights": "/data/w/vgg.h5"}
    found = chosen_roots(tmp_path, given)
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    own = [
        f"{tmp_path}/batch-size-study",
        f"{tmp_path}/head-study",
        f"{tmp_path}/predictions.csv",
        f"{tmp_path}/evaluation",
        f"{tmp_path}/inspection",
    ]
    assert roots(IMAGE_ROOTS) == ["/data/photos", f"{tmp_path}/inbox"]
    assert roots(STORE_ROOTS) == ["s3://bucket/store", *own]
    assert all(any(is_below(place, root) for root in roots(WEIGHTS_ROOTS)) for place in ("/data/w/vgg.h5",))
    monkeypatch.setenv(IMAGE_ROOTS, "/data/photos")
    assert "/elsewhere" not in chosen_roots(tmp_path, {**given, "images": "/elsewhere"})[IMAGE_ROOTS]


def test_every_root_is_set_whatever_is_given(tmp_path):
    found = chosen_roots(tmp_path, {"images": "s3://bucket/photos", "store": "/data/store"})
    assert all(found[name] for name in (IMAGE_ROOTS, STORE_ROOTS, WEIGHTS_ROOTS))


@pytest.mark.parametrize("port", ["0", "-1", "65536", "http"])
def test_what_is_no_port_is_refused(images, monkeypatch, port):
    words = ["--images", str(images), "--weights", "random"]
    with pytest.raises(InputError, match="--port"):
        parse([*words, "--port", port])
    if port == "http":
        monkeypatch.setenv("PREFECT_SERVER_API_PORT", port)
        with pytest.raises(InputError, match="`unset PREFECT_SERVER_API_PORT`"):
            parse(words)


@pytest.mark.parametrize("path", [f"{os.path.dirname(sys.executable)}:/usr/bin:/bin", "/usr/bin:/bin"])
def test_the_commands_that_up_names_are_those_of_its_own_environment(tmp_path, monkeypatch, path):
    """Typed in the same shell, whatever it has on its PATH and says of another server."""
    monkeypatch.setenv("PATH", path)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_API_URL", "http://another.example/api")
    found = [
        subprocess.run(["sh", "-c", words], capture_output=True, text=True)
        for words in (
            f"{call('prefect')} --no-prompt config view --hide-sources",
            f"{call('python')} -c 'import sys; print(sys.prefix)'",
        )
    ]
    assert [done.returncode for done in found] == [0, 0], found
    assert "another.example" not in found[0].stdout
    assert found[1].stdout.strip() == sys.prefix


def test_no_password_stands_in_a_command(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFECT_PROFILE", "mine")
    home = Home(tmp_path / "home")
    home.make()
    found = services(home, {"port": 4711, "roots": {}})
    secret = home.password()
    assert len(secret) > 30
    assert (home.path / "password").stat().st_mode & 0o777 == 0o600
    for service in found:
        assert secret not in " ".join(service.command)
        assert secret in service.environment.values()
        assert "PREFECT_PROFILE" not in service.environment
    assert home.password() == secret
    (home.path / "password").write_text("")  # as a full disk leaves it
    assert len(home.password()) > 30


def test_a_port_that_is_taken_and_a_down_without_an_up_are_told_in_one_line(images, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    with (
        with_settings({PREFECT_PROFILES_PATH: tmp_path / "prefect" / "profiles.toml"}),
        socket.create_server(("127.0.0.1", 0)) as taken,
    ):
        port = str(taken.getsockname()[1])
        words = ["up", "--images", images, "--store", tmp_path / "store", "--weights", "random", "--port", port]
        for arguments, status, said in (
            (words, 2, f"another program listens on port {port}"),
            (["down"], 0, "nothing was up"),
        ):
            monkeypatch.setattr("sys.argv", ["deployments", *map(str, arguments)])
            assert main() == status
            assert said in capsys.readouterr().err.splitlines()[-1]


def test_the_profile_before_is_the_active_one_again(tmp_path):
    path, before = tmp_path / "profiles.toml", tmp_path / "before"
    with with_settings({PREFECT_PROFILES_PATH: path}):
        mine = Profile(name="mine", settings={"PREFECT_API_URL": "http://127.0.0.1:1/api"})
        save_profiles(ProfilesCollection([mine], active="mine"))
        for port in (2, 3):  # a second `up` after a machine that went down
            use_profile({"PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}, before)
            found = load_profiles()
            assert found.active_name == NAME
            assert found[NAME].to_environment_variables()["PREFECT_API_URL"] == f"http://127.0.0.1:{port}/api"
        assert path.stat().st_mode & 0o777 == 0o600
        leave_profile(before)
        leave_profile(before)
        found = load_profiles(include_defaults=False)
        assert (found.active_name, found.names) == ("mine", {"mine"})
