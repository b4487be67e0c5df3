"""The weights of a feature space stay with it."""

from pathlib import Path

import pytest

from storage.errors import BytesDamaged, StoreDamaged
from storage.layout import Store
from storage.maintenance.collect import collect
from storage.maintenance.repair import repair_space
from storage.maintenance.verify import verify_space
from storage.manifest.kept_weights import check_kept, copy_of, keep_weights, read_kept, verified_copy
from storage.manifest.space import create_space
from storage.records import fingerprint

SPEC = {"weights": "0" * 32, "backbone": "vgg16"}
DATA = bytes(range(256)) * 40


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store", fingerprint(SPEC))
    create_space(made, SPEC)
    return made


def kept_copy(store: Store) -> Path:
    kept = keep_weights(store, "", lambda: DATA)
    return Path(copy_of(store, kept))


def test_a_space_without_a_record_has_no_weights(store):
    assert read_kept(store) is None
    assert not list(verify_space(store, is_deep=True))


def test_a_copy_is_read_back_as_it_was(store):
    kept_copy(store)
    kept = read_kept(store)
    assert kept is not None
    assert verified_copy(store, kept).read_bytes() == DATA


def test_a_name_needs_no_copy(store):
    keep_weights(store, "imagenet", lambda: pytest.fail("the data were asked for"))
    kept = read_kept(store)
    assert kept is not None
    assert (kept.source, kept.file) == ("imagenet", "")


@pytest.mark.parametrize("is_deep", [False, True])
@pytest.mark.parametrize("damage", ["record", "gone", "shorter", "flipped"])
def test_damage_is_found_and_repaired(store, damage, is_deep):
    copy, record = kept_copy(store), store.space / "weights.json"
    if damage == "record":
        record.write_text(record.read_text().replace('"source": ""', '"source": "random"'))
    elif damage == "gone":
        copy.unlink()
    elif damage == "shorter":
        copy.write_bytes(DATA[:-1])
    else:
        copy.write_bytes(b"\xff" + DATA[1:])
    is_found = damage != "flipped" or is_deep
    assert bool(list(verify_space(store, is_deep))) == is_found
    if is_found:
        with pytest.raises(StoreDamaged, match="repair"):
            check_kept(store, is_deep)
        repair_space(store, is_deep)
        assert read_kept(store) is None
        assert not list(verify_space(store, is_deep=True))
        assert keep_weights(store, "", lambda: DATA) == read_kept(store)
        check_kept(store, is_deep=True)


def test_a_flipped_byte_is_never_computed_with(store):
    copy = kept_copy(store)
    copy.write_bytes(b"\xff" + DATA[1:])
    kept = read_kept(store)
    assert kept is not None
    with pytest.raises(BytesDamaged, match="repair --deep"):
        verified_copy(store, kept)


def test_gc_removes_only_what_no_record_names(store):
    copy = kept_copy(store)
    spare = copy.with_name("1" * 64 + ".h5")
    spare.write_bytes(DATA)
    collect(store.root, keep=1, grace_seconds=3600)
    assert spare.exists()  # young: its run may still write the record
    collect(store.root, keep=1, grace_seconds=-1)
    assert not spare.exists()
    assert copy.exists()
