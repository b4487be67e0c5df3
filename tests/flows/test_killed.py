"""kill -9 of everything at random moments of each step, again and again: nothing is lost, nothing is doubled."""

import os
import random
import signal
import time

import pytest

from storage.layout import Store
from storage.maintenance.verify import verify_space
from storage.manifest.versions import latest_version
from tests import toy
from tests.flows.conftest import TINY
from tests.flows.started import assert_same_features, features, shards_in, start, trained_logs, wait_until

# A kill in each of the first steps; KILLS=4 for one in every step, 100 for many.
KILLS = int(os.environ.get("KILLS", "2"))
STEPS = ("extract", "train", "commit", "list")
NEW_IMAGES = 64  # before each kill: four shards


@pytest.mark.slow
def test_runs_killed_at_random_moments_of_every_step_end_as_if_they_had_not_been(pipeline, environment, tmp_path):
    images, store = toy.pictures(tmp_path / "images", per_class=20), tmp_path / "store"
    arguments = ("--images", images, "--store", store, *TINY, "--epochs", "30")
    draw = random.Random(int(os.environ.get("KILL_SEED", "0")))
    for number in range(KILLS):
        for index in range(NEW_IMAGES):
            toy.picture(images / f"{('cats', 'dogs')[index % 2]}/{number}-{index}.png", 10_000 + 100 * number + index)
        before = shards_in(store)
        reached = {
            "list": lambda: True,
            "extract": lambda before=before: shards_in(store) > before,
            "commit": lambda before=before: shards_in(store) >= before + NEW_IMAGES // 16,
            "train": lambda: trained_logs(store),
        }
        step = STEPS[number % len(STEPS)]
        process = start(environment, *arguments, "--seed", str(number))
        wait_until(reached[step], process)
        time.sleep(draw.uniform(0, 10 if step == "list" else 1))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()

    done = pipeline(*arguments)
    assert done.status == 0, done.stderr
    where, total = Store(store, done.record["fingerprint"]), 40 + KILLS * NEW_IMAGES
    version = latest_version(where)
    assert version.counts == {"images": total, "ok": total, "pending": 0, "quarantined": 0}
    assert not list(verify_space(where, is_deep=True))
    # Every image has one row in one shard: what was extracted before a kill was not extracted again.
    assert sum(ref.num_rows for ref in version.shards.values()) == total
    assert {path.name for path in where.shards.glob("*/*")} == set(version.shards)

    fresh = pipeline("--images", images, "--store", tmp_path / "fresh", *TINY, "--extract-only")
    assert latest_version(Store(tmp_path / "fresh", fresh.record["fingerprint"])).data_digest == version.data_digest
    assert_same_features(
        features(store, done.record["fingerprint"]), features(tmp_path / "fresh", done.record["fingerprint"])
    )
