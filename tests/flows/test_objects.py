"""The command line on images and stores in S3: one run, a run again, and two at once."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from storage.backend.paths import place
from storage.layout import Store
from storage.manifest.versions import latest_version, version_numbers
from tests.flows.conftest import PROJECT, TINY
from tests.flows.in_process import finished
from tests.flows.started import features
from tests.storage.test_objects import upload


@pytest.fixture
def call(environment, bucket, tmp_path):
    """Start `python flows/pipeline.py` on the bucket, with the test's environment of keys and address."""
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL")
    keys = {name: os.environ[name] for name in names}

    def start(*arguments: str, cache: Path = tmp_path / "cache") -> subprocess.Popen:
        command = [
            sys.executable,
            PROJECT / "flows/pipeline.py",
            "--images",
            f"{bucket}/photos",
            "--store",
            f"{bucket}/store",
        ]
        variables = {**environment, **keys, "XDG_CACHE_HOME": str(cache)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([*map(str, command), *TINY, *arguments], env=variables, cwd=tmp_path, **pipes)

    return start


def done(process: subprocess.Popen):
    stdout, stderr = process.communicate(timeout=300)
    return finished(process.returncode, stdout, stderr)


@pytest.mark.slow
def test_a_bucket_of_images_becomes_a_version_and_a_head_and_a_second_run_does_nothing(pipeline, bucket):
    run = partial(pipeline, "--images", f"{bucket}/photos", "--store", f"{bucket}/store", *TINY)
    for number, name in enumerate(("cats", "dogs")):
        for index in range(12):
            upload(bucket / f"photos/{name}/{index:03d}.png", 1000 * number + index)
    first = run()
    assert first.status == 0, first.stderr
    assert (first.record["extracted"], first.record["version"], first.record["epochs"]) == (24, 1, 2)
    head = bucket / "store/heads" / first.record["head"]
    assert {path.name for path in head.iterdir()} >= {"head.json", "head.keras", "report.html", "logs"}
    again = run()
    assert (again.status, again.record["extracted"], again.record["head"]) == (0, 0, first.record["head"])
    assert "starting Prefect" not in again.stderr
    upload(bucket / "photos/cats/new.png", 5000)
    third = run("--seed", "1")
    assert (third.record["extracted"], third.record["version"]) == (1, 2), third.stderr


@pytest.mark.slow
@pytest.mark.parametrize("caches", [("one", "other"), ("one", "one")], ids=["two machines", "one machine"])
def test_two_runs_at_once_both_end_well_and_lose_nothing(call, bucket, tmp_path, caches):
    for number in range(60):
        upload(bucket / f"photos/{('cats', 'dogs')[number % 2]}/{number:03d}.png", number)
    runs = [call(cache=tmp_path / name) for name in caches]
    ends = [done(process) for process in runs]
    assert [end.status for end in ends] == [0, 0], [end.stderr for end in ends]
    store = Store(place(f"{bucket}/store"), ends[0].record["fingerprint"])
    newest = latest_version(store)
    assert newest.counts == {"images": 60, "ok": 60, "pending": 0, "quarantined": 0}
    assert version_numbers(store)[0] == 1
    assert ends[0].record["head"] == ends[1].record["head"]
    assert len(features(store.root, store.fingerprint)) == 60
