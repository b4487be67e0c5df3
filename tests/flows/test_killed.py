"""kill -9 of everything at random moments, again and again: nothing is lost, nothing is doubled."""

import os
import random
import signal
import subprocess

import pytest

from storage.layout import Store
from storage.versions import latest_version
from tests import toy
from tests.flows.conftest import TINY
from tests.flows.test_pipeline import assert_same_features, features, start

KILLS = int(os.environ.get("KILLS", "5"))


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_as_if_it_had_not_been(pipeline, environment, tmp_path):
    images, store = toy.pictures(tmp_path / "images", per_class=600), tmp_path / "store"
    arguments = ("--images", images, "--store", store, *TINY)
    moments = random.Random(int(os.environ.get("KILL_SEED", "0")))
    for number in range(KILLS):
        process = start(environment, *arguments)
        try:
            process.wait(timeout=moments.uniform(1.0, 14.0))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if number == KILLS // 2:
            toy.picture(images / "cats" / "between.png", seed=123_456)

    done = pipeline(*arguments)
    assert done.status == 0, done.stderr
    where = Store(store, done.record["fingerprint"])
    version = latest_version(where)
    assert version.counts == {"images": 1201, "ok": 1201, "pending": 0, "quarantined": 0}
    # Every image has one row in one shard: what was extracted before a kill was not extracted again.
    assert sum(ref.num_rows for ref in version.shards.values()) == 1201
    assert {path.name for path in where.shards.glob("*/*")} == set(version.shards)

    fresh = pipeline("--images", images, "--store", tmp_path / "fresh", *TINY)
    assert latest_version(Store(tmp_path / "fresh", fresh.record["fingerprint"])).data_digest == version.data_digest
    assert_same_features(
        features(store, done.record["fingerprint"]), features(tmp_path / "fresh", done.record["fingerprint"])
    )
