"""Maintenance of a store as a flow, on a real server."""

from functools import partial

import pytest

from flows.cli.command import main
from flows.registry import MAINTENANCE
from storage.layout import Store
from storage.manifest.versions import latest_version, version_numbers
from tests import toy
from tests.flows.in_process import call
from tests.flows.started import ask

maintain = partial(call, partial(main, MAINTENANCE))


def shown(server: str, run: dict) -> dict:
    (artifact,) = [each for each in ask(server, "artifacts", id=run["id"]) if each["key"] == "store-maintenance"]
    return artifact


def test_a_store_that_is_not_there_is_told_of_before_a_server_starts(environment, tmp_path):
    done = maintain(environment, "--store", tmp_path / "nowhere")
    assert (done.status, done.stdout) == (2, "")
    assert "nowhere" in done.stderr
    assert "starting Prefect" not in done.stderr


@pytest.mark.slow
def test_a_store_is_verified_compacted_and_rid_of_old_versions_and_people_see_it(server, environment, tmp_path):
    images, store = toy.pictures(tmp_path / "images"), tmp_path / "store"
    where = Store(store, toy.space(images, store).fingerprint)
    for number in range(3):
        toy.picture(images / "cats" / f"new {number}.png", 9000 + number)
        toy.run(images, store)
    before = latest_version(where)

    done = maintain(environment, "--store", store, "--keep", "1", "--grace", "0")
    assert done.status == 0, done.stderr
    record = done.record
    assert "no faults: 3 versions" in record["verify"][0]
    assert "committed version 4" in record["compact"][0]
    assert "removed 3 versions" in record["gc"][0]
    assert version_numbers(where) == [4]
    after = latest_version(where)
    assert (after.data_digest, after.counts) == (before.data_digest, before.counts)
    (run,) = ask(server, "flow_runs", name=str(store))
    artifact = shown(server, run)
    for step in ("verify", "compact", "gc"):
        assert f"## {step}" in artifact["data"]


@pytest.mark.slow
def test_a_damaged_store_is_left_as_it_is_and_its_faults_are_shown(server, environment, tmp_path):
    images, store = toy.pictures(tmp_path / "images"), tmp_path / "store"
    for number in range(2):
        toy.picture(images / "cats" / f"new {number}.png", 9000 + number)
        toy.run(images, store)
    where = Store(store, toy.space(images, store).fingerprint)
    lost = next(where.shards.glob("*/*"))
    lost.unlink()
    before = sorted(store.rglob("*.parquet"))

    done = maintain(environment, "--store", store, "--keep", "1", "--grace", "0")
    assert done.status == 1
    assert "python -m storage repair" in done.stderr.splitlines()[-1]
    assert (sorted(store.rglob("*.parquet")), version_numbers(where)) == (before, [1, 2])
    (run,) = ask(server, "flow_runs", name=str(store))
    assert run["state_type"] == "FAILED"
    artifact = shown(server, run)
    assert lost.name in artifact["data"].replace("\\", "")
    assert "## gc" not in artifact["data"]
