import hashlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.manifest.file_table import (
    KnownFailures,
    class_counts,
    counts,
    data_digest,
    same_content,
    with_attempts,
    with_status,
)
from storage.schemas import DIGEST, FILES_SCHEMA
from storage.source.splits import derived_split

fractions = st.floats(0, 1)
digests = st.integers(0, 10_000).map(lambda number: hashlib.sha256(str(number).encode()).digest())


def row(path: str, number: int | None = 0, **values) -> dict:
    defaults = {
        "path": path.encode(),
        "digest": None if number is None else bytes([number]) * 32,
        "size": 1,
        "mtime_ns": 1,
        "ctime_ns": 1,
        "class": "cat",
        "split": "train",
        "status": "ok",
        "reason": None,
        "attempts": 0,
        "first_seen_ns": 1,
        "last_seen_ns": 1,
    }
    return defaults | values


def table(*rows: dict) -> pa.Table:
    return pa.Table.from_pylist(sorted(rows, key=lambda r: r["path"]), FILES_SCHEMA)


@given(digests, fractions, fractions)
def test_a_larger_fraction_only_moves_images_to_validation(digest, one, other):
    low, high = sorted((one, other))
    if derived_split(digest, low) == "validation":
        assert derived_split(digest, high) == "validation"


@given(digests)
def test_no_image_is_validated_on_at_zero_and_every_one_at_one(digest):
    assert derived_split(digest, 0) == "train"
    assert derived_split(digest, 1) == "validation"


def test_the_validation_share_is_about_the_fraction():
    found = [derived_split(hashlib.sha256(bytes([a, b])).digest(), 0.2) for a in range(100) for b in range(100)]
    assert 0.18 < found.count("validation") / len(found) < 0.22


def test_the_derived_split_is_pinned():
    found = [derived_split(bytes([number]) * 32, 0.5) for number in range(12)]
    assert "".join(split[0] for split in found) == "tttttvttvtvt"


def test_status_follows_rows_failures_and_reasons():
    files = table(
        row("a", 1), row("b", 2), row("c", 3), row("d", None, reason="permission"), row("e", 1), row("f", 2, reason="x")
    )
    found = with_status(files, pa.array([b"\1" * 32], DIGEST), {b"\2" * 32: "decode_error"})
    assert found["status"].to_pylist() == ["ok", "quarantined", "pending", "quarantined", "ok", "quarantined"]
    assert found["reason"].to_pylist() == [None, "decode_error", None, "permission", None, "decode_error"]
    assert found.schema.equals(FILES_SCHEMA)


def test_a_row_beats_a_failure_which_is_then_of_the_variants_if_of_anything():
    files = table(row("a", 1), row("b", 2), row("c", 3))
    failures = {bytes([number]) * 32: "crashed" for number in (1, 3)}
    found = with_status(files, pa.array([bytes([n]) * 32 for n in (1, 2)], DIGEST), failures, {b"\2" * 32: "timeout"})
    assert found["status"].to_pylist() == ["ok", "ok", "quarantined"]
    assert found["reason"].to_pylist() == [None, "timeout", "crashed"]


def test_what_a_version_knows_of_images_that_failed_is_told_apart():
    told = [
        ("ok", None, 0),
        ("ok", "crashed", 1),
        ("quarantined", "timeout", 1),
        ("pending", None, 0),
        ("pending", None, 2),
    ]
    files = table(
        *(row(str(i), i, status=s, reason=r, attempts=a) for i, (s, r, a) in enumerate(told, 1)),
        row("unread", None, status="quarantined", reason="permission", attempts=1),
    )
    found = KnownFailures()
    assert list(found.collect([files.slice(0, 3), files.slice(3)])) == [files.slice(0, 3), files.slice(3)]
    assert (found.failures, found.variant_failures) == ({b"\3" * 32: "timeout"}, {b"\2" * 32: "crashed"})
    assert found.retried == {b"\5" * 32: 2}


def test_attempts_go_with_the_bytes_and_never_down():
    files = table(row("a", 1, attempts=1), row("b", 1, attempts=3), row("c", 2, attempts=1), row("d", None, attempts=4))
    assert with_attempts(files, {b"\1" * 32: 2})["attempts"].to_pylist() == [2, 3, 1, 4]
    assert with_attempts(files, {}).equals(files)


def test_status_needs_neither_rows_nor_failures_nor_files():
    nothing = pa.array([], DIGEST)
    assert with_status(table(row("a")), nothing, {})["status"].to_pylist() == ["pending"]
    assert with_status(FILES_SCHEMA.empty_table(), nothing, {}).num_rows == 0


def test_the_data_digest_is_blind_to_paths_times_and_attempts():
    one = table(row("a", 1), row("b", 2))
    other = table(row("z", 1, mtime_ns=5, attempts=3, size=9), row("x", 2, first_seen_ns=7))
    assert data_digest(one) == data_digest(other)


@pytest.mark.parametrize(
    "other",
    [
        [row("a", 1), row("b", 3)],
        [row("a", 1), row("b", 2, **{"class": "dog"})],
        [row("a", 1), row("b", 2, split="validation")],
        [row("a", 1)],
        [row("a", 1), row("b", 2), row("c", 2)],
        [row("a", 1), row("b", 2, status="quarantined")],
        [row("a", 1, **{"class": "dog"}), row("b", 2)],
    ],
    ids=["bytes", "class", "split", "fewer", "duplicate", "status", "other class"],
)
def test_the_data_digest_changes_with_what_training_sees(other):
    assert data_digest(table(row("a", 1), row("b", 2))) != data_digest(table(*other))


def test_the_data_digest_counts_only_usable_files():
    assert data_digest(table(row("a", 1), row("b", 2, status="pending"))) == data_digest(table(row("a", 1)))


@pytest.mark.parametrize("files", [table(), table(row("a", 1, status="quarantined"))], ids=["no files", "none usable"])
def test_files_without_a_usable_one_have_a_data_digest_too(files):
    assert len(data_digest(files)) == 64


def test_counts_sum_to_the_images():
    states = ["ok"] * 3 + ["pending"] * 2 + ["quarantined"]
    files = table(*[row(str(index), index, status=state) for index, state in enumerate(states)])
    assert counts(files) == {"images": 6, "ok": 3, "pending": 2, "quarantined": 1}
    assert counts(FILES_SCHEMA.empty_table()) == {"images": 0, "ok": 0, "pending": 0, "quarantined": 0}


def test_class_counts_are_sorted_and_of_usable_files():
    files = table(
        row("a", **{"class": "dog"}), row("b"), row("c", split="test"), row("d", status="pending"), row("e", 1)
    )
    assert list(class_counts(files).items()) == [(("test", "cat"), 1), (("train", "cat"), 2), (("train", "dog"), 1)]


def test_times_and_attempts_do_not_change_the_meaning_and_all_else_does():
    files = table(row("a", 1))
    assert same_content(files, [table(row("a", 1, mtime_ns=9, size=9, attempts=9, last_seen_ns=9))])
    others = [
        row("b", 1),
        row("a", 2),
        *(row("a", 1, **{name: "x"}) for name in ("class", "split", "status", "reason")),
    ]
    assert not any(same_content(files, [table(other)]) for other in others)
    assert not same_content(files, [])
    assert not same_content(files, [files, files])


def test_meaning_does_not_depend_on_how_a_table_is_chunked():
    files = table(*[row(str(index), index) for index in range(5)])
    pieces = pa.concat_tables([files.slice(0, 2), files.slice(2)])
    assert same_content(files, [files.slice(0, 2), files.slice(2)])
    assert same_content(pieces, [files])
    assert data_digest(files) == data_digest(pieces)
    assert np.array_equal(files["digest"].to_pylist(), pieces["digest"].to_pylist())
