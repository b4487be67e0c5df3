"""The files of an evaluation."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from workers.jobs.evaluate import FIGURES, REPORT, write_both


@contextmanager
def no_file_over(size: int) -> Iterator[None]:
    """Let writes fail as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(("figures", "page"), [(10, 200_000), (200_000, 10)])
def test_both_files_of_an_evaluation_are_of_one_run_also_on_a_full_disk(figures, page, tmp_path):
    write_both(tmp_path, "old figures", "old page")
    with no_file_over(100_000), pytest.raises(OSError, match="too large"):
        write_both(tmp_path, "f" * figures, "p" * page)
    assert sorted(os.listdir(tmp_path)) == [FIGURES, REPORT]
    assert (tmp_path / FIGURES).read_text() == "old figures"
    assert (tmp_path / REPORT).read_text() == "old page"
