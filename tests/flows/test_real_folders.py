"""Folders, tables and class lists as people have them: each is taken as it is meant, or refused with the reason."""

import pytest

from benchmarks.real_folders import CASES, Case, ask, verdict


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_no_answer_is_wrong_without_a_word(case: Case, tmp_path):
    status, said, labels = ask(case, tmp_path)
    assert verdict(case, status, said, labels) in ("as meant", "refused"), (status, said, labels)
