import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from storage.planning.plan import Plan
from storage.planning.plan_files import load_plan, open_todo, save_plan, using
from storage.source.listing import list_images
from storage.source.scan import scan_folder
from storage.source.scan_files import load_listing, load_scan, prepare, save_listing, save_scan
from tests import toy


@pytest.fixture
def folder(tmp_path):
    prepare(tmp_path / "handed")
    return tmp_path / "handed"


def strange_pictures(tmp_path):
    """A folder whose own name, and a name in it, are not UTF-8."""
    root = tmp_path / os.fsdecode(b"caf\xe9")
    toy.pictures(root, per_class=2)
    toy.picture(root / os.fsdecode(b"\xff") / os.fsdecode(b"\xfe.png"), seed=9)
    return root


def assert_same_plan(one: Plan, other: Plan) -> None:
    assert {name: value for name, value in vars(one).items() if name not in ("files", "rows", "todo")} == {
        name: value for name, value in vars(other).items() if name not in ("files", "rows", "todo")
    }
    for name in ("files", "rows", "todo"):
        assert getattr(one, name).equals(getattr(other, name)), name


def test_a_scan_is_handed_over_whole(tmp_path, folder):
    scan = scan_folder(strange_pictures(tmp_path))
    again = load_scan(save_scan(scan, folder))
    assert again == scan
    assert again.digest == scan.digest


def test_a_scan_with_folders_that_could_not_be_listed_is_handed_over_whole(public, as_a_user):
    (toy.pictures(public / "images", per_class=2) / "cats").chmod(0)
    with as_a_user():
        scan = scan_folder(public / "images")
        again = load_scan(save_scan(scan, public))
    assert again.unreadable == (b"cats/",)
    assert again == scan


def test_a_listing_is_handed_over_whole(tmp_path, store, folder):
    listing = list_images(scan_folder(strange_pictures(tmp_path)), store)
    path = save_scan(listing.scan, folder)
    assert load_listing(save_listing(listing, path)) == listing


def test_a_first_plan_is_handed_over_whole(tmp_path, store, folder):
    images = strange_pictures(tmp_path)
    plan = toy.plan(images, store)
    assert_same_plan(load_plan(toy.space(images, store).store, save_plan(plan, folder)), plan)


def test_a_plan_with_a_past_is_handed_over_whole(images, store, folder):
    (images / "cats/broken.png").write_bytes(b"no image")
    toy.run(images, store, limit=12)
    (images / "cats/000.png").rename(images / "dogs/relabelled.png")
    plan = toy.plan(images, store, chunk_size=3)
    assert plan.parent is not None
    assert plan.todo.num_rows
    assert plan.shards
    assert_same_plan(load_plan(toy.space(images, store).store, save_plan(plan, folder)), plan)


def test_a_plan_with_variants_is_handed_over_whole(images, store, folder, monkeypatch):
    toy.without_keras(monkeypatch)
    options = {"variants": 2, "augmentation": '{"rotation_range":20.0}'}
    toy.run(images, store, limit=12, **options)
    plan = toy.plan(images, store, **options | {"variants": 4})
    assert plan.augmentations
    assert_same_plan(load_plan(toy.space(images, store).store, save_plan(plan, folder)), plan)
    assert save_plan(toy.plan(images, store, **options), folder) != save_plan(plan, folder)


def test_every_number_and_text_of_a_plan_is_handed_over(images, store, folder):
    """Each with a value of its own, so that a field which a plan gains later cannot be forgotten."""
    plan = toy.plan(images, store)
    plain = [name for name, value in vars(plan).items() if isinstance(value, int | str) and name != "format"]
    kinds = {name: type(getattr(plan, name)) for name in plain}
    own = {name: kinds[name](number) for number, name in enumerate(plain, 2)}
    assert {"adopted", "ignored", "chunk_size", "waiting", "augmentation"} <= own.keys()
    plan = replace(plan, **own)
    assert_same_plan(load_plan(toy.space(images, store).store, save_plan(plan, folder)), plan)


def test_the_images_to_extract_can_be_opened_alone(images, store, folder):
    plan = toy.plan(images, store)
    assert open_todo(save_plan(plan, folder)).equals(plan.todo)


def test_an_empty_plan_is_handed_over_whole(images, store, folder):
    toy.run(images, store)
    plan = toy.plan(images, store)
    assert plan.todo.num_rows == 0
    assert_same_plan(load_plan(toy.space(images, store).store, save_plan(plan, folder)), plan)


def test_the_same_plan_has_the_same_name_and_another_one_another(images, store, folder):
    names = [save_plan(toy.plan(images, store), folder) for _ in range(2)]
    assert names[0] == names[1]
    assert save_plan(toy.plan(images, store, limit=3), folder) != names[0]
    assert save_plan(toy.plan(images, store, chunk_size=3), folder) != names[0]
    toy.picture(images / "cats/new.png", seed=99)
    assert save_plan(toy.plan(images, store), folder) != names[0]


def test_only_the_scan_that_is_asked_for_and_its_listing_are_kept(images, store, folder):
    scan = scan_folder(images)
    kept = {save_scan(scan, folder), save_listing(list_images(scan, store), save_scan(scan, folder))}
    toy.picture(images / "cats/new.png", seed=99)
    save_scan(scan_folder(images), folder)
    save_plan(toy.plan(images, store), folder)
    prepare(folder, keep=scan.digest)
    assert set(folder.iterdir()) == kept
    prepare(folder)
    assert not list(folder.iterdir())


def test_nothing_half_written_is_left(images, store, folder):
    scan = scan_folder(images)
    save_listing(list_images(scan, store), save_scan(scan, folder))
    save_plan(toy.plan(images, store), folder)
    assert not list(folder.rglob(".*"))


def test_runs_that_share_a_folder_keep_what_the_others_read_and_the_next_one_clears_it(images, store, monkeypatch):
    monkeypatch.setattr("storage.planning.plan_files.is_local", lambda root: False)
    where = toy.space(images, store).store
    scan = scan_folder(images)
    with using(where):
        first = save_plan(toy.plan(images, store), where.plans)
        with using(where):
            second = save_scan(scan, where.plans)
            assert load_plan(where, first).num_chunks == 3
        with using(where):
            assert load_plan(where, first).num_chunks == 3
            assert load_scan(second) == scan
    with using(where):
        assert not list(where.plans.iterdir())


def test_runs_that_hand_the_same_over_at_once_do_not_get_in_each_others_way(images, store, folder):
    scan, planned = scan_folder(images), toy.plan(images, store)
    listing = list_images(scan, store)

    def hand_over(_: int) -> None:
        assert load_scan(save_scan(scan, folder)) == scan
        assert load_listing(save_listing(listing, folder / f"{scan.digest}.scan")).files.equals(listing.files)
        assert open_todo(save_plan(planned, folder)).equals(planned.todo)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(hand_over, range(24)))
