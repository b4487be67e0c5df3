"""Every part that finds a fault reports it with a reason code that the store knows."""

from typing import get_args, get_type_hints

from storage.reasons import BYTE_FAULTS, FILE_FAULTS, MEANINGS, PROCESS_FAULTS
from tests.test_layers import PROJECT
from vision.pixels.decode import Code
from workers.children.watchdog import Breach
from workers.runners.isolation import UNREAD


def test_whoever_finds_a_fault_has_the_codes_of_the_store():
    assert set(get_args(Code)) == set(BYTE_FAULTS)
    assert set(get_args(get_type_hints(Breach)["code"])) == set(PROCESS_FAULTS)
    assert UNREAD in FILE_FAULTS


def test_every_code_is_documented():
    text = (PROJECT / "docs" / "images.md").read_text()
    assert [code for code in MEANINGS if f"`{code}`" not in text] == []
