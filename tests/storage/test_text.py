import re
import shlex

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from storage.text import as_flags, columns, count, date, one_line, ranges, size, visible, width

ESCAPES = re.compile(r"\\(\\|[nrt]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})")
SHORT = {"\\": b"\\", "n": b"\n", "r": b"\r", "t": b"\t"}


def path_of(shown: str) -> bytes:
    """Undo `visible` of a path."""

    def plain(match: re.Match) -> str:
        escape = match[1]
        if escape in SHORT:
            return SHORT[escape].decode()
        code = int(escape[1:], 16)
        return bytes([code]).decode("utf-8", "surrogateescape") if escape[0] == "x" else chr(code)

    return ESCAPES.sub(plain, shown).encode("utf-8", "surrogateescape")


paths = st.one_of(st.binary(), st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))


@given(paths)
@example("cats/é\u0085\u202e\U000e0001 \n\\n\\xff.png".encode() + b"\xff\x85")
def test_a_path_is_one_printable_line_from_which_it_can_be_had_back(path):
    shown = visible(path)
    assert shown.isprintable()
    assert path_of(shown) == path


def test_a_name_without_surprises_stays_as_it_is():
    assert visible("cats/Käthe 1.png".encode()) == visible("cats/Käthe 1.png") == "cats/Käthe 1.png"


def test_a_message_of_several_lines_becomes_one_in_which_a_path_keeps_its_spaces():
    message = "shard 1 is damaged;\n   run `python -m storage repair --store 'my  photos'`\n\n"
    assert one_line(message) == "shard 1 is damaged; run `python -m storage repair --store 'my  photos'`"


def test_the_escapes_that_a_class_name_has_are_not_escaped_again():
    assert visible("caf\\xe9") == "caf\\xe9"
    assert visible(b"caf\xe9") == "caf\\xe9"


@given(st.sets(st.integers(1, 40)))
def test_ranges_name_each_number_once(numbers):
    found = []
    for run in ranges(sorted(numbers)).split(", ") if numbers else []:
        first, _, last = run.partition(" to ")
        found += range(int(first), int(last or first) + 1)
    assert found == sorted(numbers)


@given(st.lists(st.tuples(*[st.text("ab猫é ", max_size=6)] * 3), min_size=1))
def test_the_last_column_begins_at_the_same_place_in_each_line(rows):
    lines = columns([[*row, "|"] for row in rows], right="r r")
    assert len({width(line) for line in lines}) == 1
    assert all(line.endswith("  |") for line in lines)


@pytest.mark.parametrize(
    ("size_bytes", "words"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (26_311_000, "26.3 MB"),
        (999_960_000, "1.0 GB"),
        (5e15, "5,000.0 TB"),
    ],
)
def test_bytes_are_told_in_the_unit_that_gives_few_digits(size_bytes, words):
    assert size(size_bytes) == words


def test_a_count_agrees_with_its_noun():
    assert [count(1, "image"), count(10_942, "image"), count(2, "class", "classes")] == [
        "1 image",
        "10,942 images",
        "2 classes",
    ]


def test_a_date_that_is_none_stays_as_it_is():
    assert date("2025-09-01T12:00:00+00:00") == "2025-09-01 12:00:00 UTC"
    assert date("last\nweek") == "last\\nweek"


@pytest.mark.parametrize(
    ("message", "typed"),
    [
        ("`labels`: row 3 has no class", "--labels: row 3 has no class"),
        ("run again with `allow_removals`.", "run again with --allow-removals."),
        ("(`layout=splits` or `labels`)", "(--layout splits or --labels)"),
        (
            f"give `images={shlex.quote('my photos/it`s')}`; or not",
            f"give --images {shlex.quote('my photos/it`s')}; or not",
        ),
        ("`space=''`: none", "--space '': none"),
        ("run `python -m storage repair --store /x`: it", "run `python -m storage repair --store /x`: it"),
        ("/photos/`limit`/a.png is gone", "/photos/`limit`/a.png is gone"),
        ("'`limit`' is gone", "'`limit`' is gone"),
    ],
)
def test_parameters_become_flags_and_nothing_else_changes(message, typed):
    assert as_flags(message) == typed


@given(st.text())
def test_a_value_of_a_parameter_is_typed_as_one_word(value):
    quoted = shlex.quote(value)
    assert as_flags(f"give `images={quoted}`: it") == f"give --images {quoted}: it"
