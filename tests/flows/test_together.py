"""Runs of a deployment by a real worker: several at once on one store, and one that is cancelled."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.maintenance.verify import verify_space
from storage.manifest.space import spaces
from storage.manifest.versions import latest_version, version_numbers
from tests import toy
from tests.flows.conftest import PROJECT, end
from tests.flows.test_pipeline import ask, children_of, trained_logs

pytestmark = pytest.mark.slow
POOL, DEPLOYMENT = "together", "extract-and-train/together"
OPTIONS = {"weights": "random", "image_size": 32, "chunk_size": 16}

TRIGGER = """
import sys, json
from prefect.automations import Automation
from prefect.client.orchestration import get_client
from prefect.events import EventTrigger, RunDeployment
name, images, parameters = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
with get_client(sync_client=True) as client:
    deployment = client.read_deployment_by_name(name)
trigger = EventTrigger(expect={"images.arrived"}, match={"prefect.resource.id": f"images:{images}"}, posture="Reactive")
run = RunDeployment(deployment_id=deployment.id, parameters=parameters)
Automation(name=images, trigger=trigger, actions=[run]).create()
"""
SCHEDULE = """
import json, sys
from datetime import timedelta
from prefect.client.orchestration import get_client
from prefect.client.schemas.schedules import IntervalSchedule
with get_client(sync_client=True) as client:
    deployment = client.read_deployment_by_name(sys.argv[1])
    if len(sys.argv) > 2:
        often = IntervalSchedule(interval=timedelta(seconds=30))
        client.create_deployment_schedules(deployment.id, [(often, True)], 3, json.loads(sys.argv[2]), "often")
    else:
        for schedule in client.read_deployment_schedules(deployment.id):
            client.delete_deployment_schedule(deployment.id, schedule.id)
"""


@pytest.fixture(scope="module")
def worker(prefect, environment, tmp_path_factory):
    """A worker of a pool of its own, for which the flow is deployed."""
    prefect("-m", "prefect", "work-pool", "create", POOL, "--type", "process")
    entry = "flows/pipeline.py:extract_and_train"
    prefect("-m", "prefect", "--no-prompt", "deploy", entry, "--name", "together", "--pool", POOL)
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--install-policy", "never"]
    with open(tmp_path_factory.mktemp("worker") / "log", "w+") as log:
        process = subprocess.Popen(
            command, env=environment | {"PREFECT_WORKER_QUERY_SECONDS": "2"}, cwd=PROJECT, stdout=log, stderr=log
        )
        try:
            yield process
        finally:
            end(process, 60)


def wait_for(condition: Callable[[], object], process: subprocess.Popen, seconds: float = 600):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert process.poll() is None, "the worker has ended"
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return found


def parameters(images: Path, store: Path, **others) -> dict:
    return {**OPTIONS, "images": str(images), "store": str(store), **others}


def begun(server: str, images: Path) -> list[dict]:
    """The runs over these images that have begun: they bear their name."""
    return [run for run in ask(server, "flow_runs", name=str(images)) if run["deployment_id"]]


def run_words(values: dict) -> list[str]:
    return [word for name, value in values.items() for word in ("--param", f"{name}={json.dumps(value)}")]


def test_a_trigger_a_schedule_and_a_manual_run_at_once_follow_each_other(
    prefect, worker, server, environment, tmp_path
):
    images, store = toy.pictures(tmp_path / "images", per_class=20), tmp_path / "store"
    given = parameters(images, store, epochs=2)
    prefect("-c", TRIGGER, DEPLOYMENT, str(images), json.dumps(given))
    prefect("-c", SCHEDULE, DEPLOYMENT, json.dumps(given))
    wait_for(lambda: begun(server, images), worker)
    watching = subprocess.Popen(
        [sys.executable, PROJECT / "flows" / "watch_images.py", "--images", images, "--store", store, "--hours", "1"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        prefect("-m", "prefect", "deployment", "run", DEPLOYMENT, *run_words(given))
        wait_for(lambda: list(store.glob("*/versions/*.json")), worker)
        wait_for(lambda: list(store.glob("cache/watch/*/*.scan")), worker)
        for number in range(20):
            toy.picture(images / "cats" / f"new {number}.png", 9000 + number)

        # One was started by hand, one by each of two events, the others by the schedule.
        wait_for(lambda: [run["auto_scheduled"] for run in begun(server, images)].count(False) == 3, worker)
        prefect("-c", SCHEDULE, DEPLOYMENT)

        def ended() -> set[str]:
            states = {run["state_type"] for run in begun(server, images)}
            return set() if {"RUNNING", "PENDING"} & states else states

        assert wait_for(ended, worker) == {"COMPLETED"}
    finally:
        watching.terminate()
        watching.wait(60)
    (where,) = spaces(store)
    version = latest_version(where)
    assert version_numbers(where) == list(range(1, version.number + 1))
    assert version.counts == {"images": 60, "ok": 60, "pending": 0, "quarantined": 0}
    assert sum(ref.num_rows for ref in version.shards.values()) == 60  # nothing was extracted twice
    assert {path.name for path in where.shards.glob("*/*")} == set(version.shards)
    assert not list(verify_space(where, is_deep=True))


def test_a_run_that_is_cancelled_leaves_no_process_and_the_next_goes_on(prefect, worker, server, tmp_path):
    images, store = toy.pictures(tmp_path / "images", per_class=20), tmp_path / "store"
    given = parameters(images, store, epochs=5000, patience=5000)
    created = prefect("-m", "prefect", "deployment", "run", DEPLOYMENT, *run_words(given))
    run_id = re.search(r"UUID: (\S+)", created).group(1)
    wait_for(lambda: trained_logs(store), worker)
    group = json.loads((store / "lock").read_text())["pid"]
    descendants = descendants_of(group)
    assert descendants, "the training is in a child"
    prefect("-m", "prefect", "flow-run", "cancel", run_id)
    wait_for(lambda: state_of(server, run_id) == "CANCELLED", worker)
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in {group, *descendants}), worker, 60)
    states = [task["state_type"] for task in ask(server, "task_runs", id=run_id)]
    assert "FAILED" not in states

    created = prefect("-m", "prefect", "deployment", "run", DEPLOYMENT, *run_words(given | {"epochs": 2}))
    run_id = re.search(r"UUID: (\S+)", created).group(1)
    assert wait_for(lambda: {"COMPLETED", "FAILED", "CRASHED"} & {state_of(server, run_id)}, worker) == {"COMPLETED"}
    assert version_numbers(spaces(store)[0]) == [1]


def test_a_watcher_that_is_cancelled_ends(prefect, worker, server, tmp_path):
    images, store = toy.pictures(tmp_path / "images"), tmp_path / "store"
    entry = "flows/watch_images.py:watch_images"
    prefect("-m", "prefect", "--no-prompt", "deploy", entry, "--name", "together", "--pool", POOL)
    given = {"images": str(images), "store": str(store)}
    created = prefect("-m", "prefect", "deployment", "run", "watch-images/together", *run_words(given))
    run_id = re.search(r"UUID: (\S+)", created).group(1)
    wait_for(lambda: list(store.glob("cache/watch/*/*.scan")), worker)
    prefect("-m", "prefect", "flow-run", "cancel", run_id)
    wait_for(lambda: state_of(server, run_id) == "CANCELLED", worker)


def state_of(server: str, run_id: str) -> str:
    return ask(server, "flow_runs", id=run_id)[0]["state_type"]


def descendants_of(pid: int) -> set[int]:
    found, waiting = set(), [pid]
    while waiting:
        for child in children_of(waiting.pop()):
            found.add(child)
            waiting.append(child)
    return found
