"""A parameter names nothing outside of the roots, however it is written."""

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.cli import command
from flows.options.roots import IMAGE_ROOTS, STORE_ROOTS, WEIGHTS_ROOTS, is_below, roots
from flows.registry import MAINTENANCE, PIPELINE, STUDY, WATCH
from storage.errors import InputError

main = partial(command.main, PIPELINE)
parse = partial(command.parse, PIPELINE)
parse_maintenance, parse_study, parse_watch = (partial(command.parse, flow) for flow in (MAINTENANCE, STUDY, WATCH))


@pytest.fixture
def rooms(tmp_path, monkeypatch):
    """A root with an image folder and a link out of it, and a folder beside whose name begins alike."""
    (tmp_path / "data" / "photos").mkdir(parents=True)
    (tmp_path / "database").mkdir()
    (tmp_path / "data" / "out").symlink_to(tmp_path / "database")
    for name in (IMAGE_ROOTS, STORE_ROOTS, WEIGHTS_ROOTS):
        monkeypatch.setenv(name, f"{tmp_path}/data:s3://bucket/data")
    monkeypatch.chdir(tmp_path / "data")
    return tmp_path


OUTSIDE = ["/", "/etc", "..", "../database", "photos/../..", "out", "out/deeper", "s3://bucket", "s3://bucket/database"]
OUTSIDE += ["s3://bucket/data/../x", "s3://other/data", "gs://bucket/data", "file:///etc", "../data2"]


@pytest.mark.parametrize("flag", ["--images", "--store", "--labels", "--weights"])
@pytest.mark.parametrize("address", OUTSIDE)
def test_what_lies_outside_is_refused(rooms, flag, address):
    with pytest.raises(InputError, match=f"{flag}: .*ROOTS"):
        parse([*("--images", "photos") * (flag != "--images"), flag, address])


@pytest.mark.parametrize("address", [".", "photos", "photos/../photos", "s3://bucket/data", "s3://bucket/data/x"])
def test_what_lies_inside_is_taken(rooms, address):
    options, _ = parse(["--images", address, "--store", address, "--weights", "random"])
    assert (options.images, options.store) == (address, address)


def test_a_file_of_augmentation_lies_inside_or_is_not_read(rooms):
    for folder in ("data/photos", "database"):
        (rooms / folder / "turned.yaml").write_text("rotation_range: 20")
    (rooms / "data" / "linked.json").symlink_to(rooms / "database" / "turned.yaml")
    inside, _ = parse(["--augment", "photos/turned.yaml", "--train-on", "images"])
    assert inside == parse(["--augment", "rotation_range: 20", "--train-on", "images"])[0]
    for path in ("../database/turned.yaml", f"{rooms}/database/none.json", "out/turned.yaml", "linked.json"):
        with pytest.raises(InputError, match=r"--augment: .*ROOTS"):
            parse(["--augment", path, "--train-on", "images"])


def test_a_study_writes_nothing_outside(rooms):
    for flags in (["--store", "../database"], ["--out", "../database"]):
        with pytest.raises(InputError, match=f"{flags[0]}: .*ROOTS"):
            parse_study(flags)


def test_links_out_of_the_images_are_not_followed_where_roots_are_set(rooms):
    with pytest.raises(InputError, match="--outside-links"):
        parse(["--images", "photos", "--outside-links"])
    with pytest.raises(InputError, match="--outside-links"):
        parse_watch(["--images", "photos", "--store", ".", "--outside-links"])


@pytest.mark.parametrize("parse_other", [parse_watch, parse_maintenance])
def test_neither_a_watcher_nor_the_maintenance_goes_outside(rooms, parse_other):
    with pytest.raises(InputError, match=r"--store: .*ROOTS"):
        parse_other(["--store", "../database"])


def test_the_command_ends_with_2_and_has_written_nothing(rooms, capsys):
    assert main(["--images", "photos", "--store", "../database/store", "--weights", "random"]) == 2
    said = capsys.readouterr()
    assert "error: --store: ../database/store is outside the allowed roots" in said.err
    assert said.out == ""
    assert list((rooms / "database").iterdir()) == []


def test_without_roots_any_place_is_taken(monkeypatch):
    for name in (IMAGE_ROOTS, STORE_ROOTS):
        monkeypatch.setenv(name, "")
    assert parse(["--images", "/etc"])[0].images == "/etc"


@given(st.lists(st.sampled_from(["/a", "s3://b/c", "gs://d", "relative", "/with space"])))
def test_roots_are_separated_as_in_a_path(places):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(IMAGE_ROOTS, ":".join(places))
        assert roots(IMAGE_ROOTS) == places


@given(st.lists(st.sampled_from(["..", ".", "a", "b", ""]), max_size=6).map("/".join))
def test_a_path_of_dots_is_below_exactly_where_it_leads_below(rest):
    depth = 0
    for part in rest.split("/"):
        depth = depth if part in ("", ".") else depth - 1 if part == ".." else depth + 1
        if depth < 0:
            return  # it may come back by the root's own name, which is another property
    assert is_below(f"/nowhere/base/{rest}", "/nowhere/base")
    assert not is_below(f"/nowhere/base/{rest}/{'../' * (depth + 1)}", "/nowhere/base")
