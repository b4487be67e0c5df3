import json

import pytest

from storage.errors import InputError, StoreDamaged
from storage.heads.current import current_head, promote_head
from storage.layout import FORMAT_VERSION, Store, machine_cache
from storage.manifest.space import check_space, create_space, other_spaces
from storage.records import canonical, fingerprint
from vision.engines.facts import cache_folder

SPEC = {"backbone": "toy", "size": 32}


@pytest.fixture
def space(store) -> Store:
    return Store(store, fingerprint(SPEC))


def test_a_fingerprint_is_blind_to_the_order_of_a_spec_and_to_nothing_else():
    assert fingerprint(SPEC) == fingerprint(dict(reversed(SPEC.items())))
    others = [SPEC | {"size": 33}, SPEC | {"size": "32"}, SPEC | {"pooling": None}, {"backbone": "toy"}]
    assert len({fingerprint(spec) for spec in [SPEC, *others]}) == 5


def test_the_canonical_form_and_the_fingerprint_are_pinned():
    assert canonical(SPEC | {"é": None}) == '{"backbone":"toy","size":32,"é":null}'.encode()
    assert fingerprint(SPEC) == "201b6ca762beec1448f3b6b06f9f94fd"


def test_a_space_says_its_format_and_its_spec(space):
    create_space(space, SPEC)
    assert json.loads((space.space / "space.json").read_text()) == {"format_version": FORMAT_VERSION, "spec": SPEC}
    check_space(space)


def test_creating_a_space_again_keeps_it_and_sweeps_up_what_dead_runs_left(space):
    create_space(space, SPEC)
    before = (space.space / "space.json").stat().st_mtime_ns
    (space.aside / "half").write_bytes(b"half a shard")
    create_space(space, SPEC)
    assert not list(space.aside.iterdir())
    assert (space.space / "space.json").stat().st_mtime_ns == before


def test_a_space_that_is_not_there_yet_is_fine(space):
    check_space(space)
    assert not space.root.exists()


@pytest.mark.parametrize("number", [0, FORMAT_VERSION + 1, None, "1"])
def test_a_space_of_an_unknown_format_is_refused_with_both_numbers(space, number):
    create_space(space, SPEC)
    (space.space / "space.json").write_text(json.dumps({"format_version": number, "spec": SPEC}))
    for refuse in (lambda: check_space(space), lambda: create_space(space, SPEC)):
        with pytest.raises(InputError, match=f"format_version {number}, expected {FORMAT_VERSION}"):
            refuse()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"1", b"\xff\xfe"])
def test_a_space_file_that_is_not_readable_is_damage(space, content):
    create_space(space, SPEC)
    (space.space / "space.json").write_bytes(content)
    with pytest.raises(StoreDamaged, match=r"space\.json"):
        check_space(space)


def test_other_spaces_are_those_that_look_like_one(space):
    assert other_spaces(space) == []
    create_space(space, SPEC)
    for name in ("1" * 32, "0" * 32, "cache", "heads", "G" * 32, "1" * 31):
        (space.root / name).mkdir()
    assert [other.fingerprint for other in other_spaces(space)] == ["0" * 32, "1" * 32]


def test_the_promoted_head_is_the_current_one(space):
    assert current_head(space) is None
    for name in ("a" * 32, "b" * 32):
        promote_head(space, name)
        assert current_head(space) == name


@pytest.mark.parametrize("name", ["", "..", "../" + "a" * 29, "A" * 32, "a" * 32 + "\n"])
def test_a_name_that_is_no_head_is_neither_promoted_nor_believed(space, name):
    with pytest.raises(StoreDamaged, match="not a valid name of a head"):
        promote_head(space, name)
    space.heads.mkdir(parents=True)
    (space.heads / "current").write_text(f"{name}x")
    assert current_head(space) is None


@pytest.mark.parametrize("given", [None, "", "relative/folder", "/absolute"])
def test_every_process_of_a_machine_finds_the_same_cache_whatever_its_working_folder(monkeypatch, tmp_path, given):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME") if given is None else monkeypatch.setenv("XDG_CACHE_HOME", given)
    assert machine_cache().is_absolute()
    assert machine_cache() == cache_folder().parent  # engines have the same rule
