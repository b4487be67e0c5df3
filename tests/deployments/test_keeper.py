"""All of it with a real server, worker and watcher, as one command stands it up; numbers are small, the benchmark's are not."""

import base64
import csv
import json
import os
import re
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from benchmarks.deployment import VICTIMS, arrivals, bursts, crash, first_version, stood_up, together, until
from deployments.definitions import PROJECT
from deployments.supervisor import marked
from flows.options.pipeline import PipelineOptions
from storage.maintenance.verify import verify_space
from storage.manifest.versions import latest_version
from tests import toy
from tests.browser import tab
from tests.flows.started import children_of, trained_logs

pytestmark = pytest.mark.slow

# Everything dies at once; DEATHS=4 for all kinds of death.
DRAWN = list(VICTIMS)[-int(os.environ.get("DEATHS", "1")) :]


@pytest.fixture(scope="module")
def stand(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stand")
    (folder / "inbox").mkdir()
    more = ["--inbox", str(folder / "inbox"), "--predictions", str(folder / "predictions.csv")]
    with stood_up(folder, more=more) as stand:
        first_version(stand)
        yield stand
    assert marked(stand.home) == []
    assert "extract-and-train" not in (stand.folder / "prefect" / "profiles.toml").read_text()


def ask(stand, path: str, password: str | None, method: str = "GET", **headers: str):
    """The status and the headers of an answer of the server, to somebody who is no Prefect client."""
    request = urllib.request.Request(f"http://127.0.0.1:{stand.port}/api/{path}", method=method, headers=headers)
    request.data = b"{}" if method == "POST" else None
    request.add_header("Content-Type", "application/json")
    if password is not None:
        request.add_header("Authorization", f"Basic {base64.b64encode(password.encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.headers


@pytest.fixture(scope="module")
def password(stand):
    return (stand.home / "password").read_text()


def test_the_literal_command_ends_in_a_completed_run_with_the_parameters_it_is_given(stand):
    said = stand.must("prefect", "deployment", "run", "extract-and-train", "--watch", "--param", "epochs=2")
    assert "Completed" in said
    heads = [json.loads(path.read_text()) for path in stand.folder.glob("store/heads/*/head.json")]
    assert {head["head"]["epochs"] for head in heads} == {1, 2}
    # What the run was not given is as in the deployment, and what the deployment does not say is at its default.
    (head,) = [head for head in heads if head["head"]["epochs"] == 2]
    used = {**head["features"], **head["head"], "seed": head["seed"]}
    assert (used["image_size"], used["kind"]) == (32, "mlp")
    defaults = PipelineOptions().model_dump(
        exclude={"weights", "image_size", "epochs", "classes", "head", "preprocessing"}
    )
    shared = defaults.keys() & used.keys()
    assert {name: used[name] for name in shared} == {name: defaults[name] for name in shared}
    assert shared > {"backbone", "pooling", "dtype", "precision", "optimizer", "batch_size", "standardize", "seed"}


def test_the_form_that_prefect_has_works_too_and_a_name_that_there_is_not_is_told(stand):
    stand.must("prefect", "deployment", "run", "extract-and-train/extract-and-train", "--watch")
    done = stand.call("prefect", "deployment", "run", "no-such-thing")
    assert done.returncode == 1
    assert "not found" in done.stdout + done.stderr


def test_a_parameter_outside_of_the_roots_fails_the_run_in_one_line(stand):
    outside = stand.folder / "elsewhere"
    words = ["deployment", "run", "extract-and-train", "--watch", "--param", f"store={outside}"]
    done = stand.call("prefect", *words)
    assert done.returncode == 1
    (failed,) = stand.runs("FAILED")
    assert "is outside the allowed roots" in failed["state"]["message"]
    assert not outside.exists()


def test_nobody_talks_to_the_server_without_the_password(stand, password):
    for wrong in (None, "admin:", "admin:wrong", password[:-1], password.upper()):
        assert ask(stand, "admin/version", wrong)[0] == 401
        assert ask(stand, "csrf-token?client=1", wrong)[0] == 401
        assert ask(stand, "deployments/filter", wrong, "POST")[0] in (401, 403)
    assert ask(stand, "admin/version", password)[0] == 200
    done = stand.call("prefect", "--no-prompt", "deployment", "ls")
    assert done.returncode == 0
    stand_in = stand.environment | {"PREFECT_API_AUTH_STRING": "admin:wrong"}
    refused = stand.call("prefect", "deployment", "run", "extract-and-train", environment=stand_in)
    assert refused.returncode != 0
    assert "401" in refused.stdout + refused.stderr


def test_the_pages_show_the_tasks_of_a_run_to_whoever_has_the_password(stand, password, tmp_path):
    run = stand.runs("COMPLETED")[0]
    with tab(tmp_path) as page:
        for origin in (f"http://{host}:{stand.port}" for host in ("127.0.0.1", "localhost")):
            page.open(origin)
            page.type("admin:wrong")
            page.wait_for_text("Invalid credentials")
            page.open(origin)
            page.type(password)
            page.wait_for_text("Flow Runs")
            for path in ("v2/runs", "runs"):  # the second is that of Prefect's earlier pages, which its links lead to
                page.open(f"{origin}/{path}/flow-run/{run['id']}")
                page.press_until("Task Runs", "scan_images")


def test_a_page_of_another_origin_is_let_in_nowhere(stand, password):
    allowed = ask(stand, "admin/version", password, Origin=f"http://127.0.0.1:{stand.port}")[1]
    assert allowed["Access-Control-Allow-Origin"] == f"http://127.0.0.1:{stand.port}"
    refused = ask(stand, "admin/version", password, Origin="http://evil.example")[1]
    assert refused["Access-Control-Allow-Origin"] is None
    # With the password, but without the token that only a page of the server's own gets.
    assert ask(stand, "deployments/filter", password, "POST")[0] == 403


def test_only_this_machine_reaches_the_server(stand):
    sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    found = {words[1] for words in sockets if words[3] == "0A"}
    listening = [address for address in found if int(address.partition(":")[2], 16) == stand.port]
    assert listening == [f"0100007F:{stand.port:04X}"]


def test_the_password_is_in_no_log_and_no_file_that_others_read(stand, password):
    secret = password.partition(":")[2]
    for path in stand.folder.rglob("*"):
        if path.is_file() and secret.encode() in path.read_bytes():
            assert path.name in ("password", "profiles.toml")
            assert path.stat().st_mode & 0o077 == 0


def test_the_schedule_creates_runs(stand):
    (scheduled,) = {run["auto_scheduled"] for run in stand.runs("SCHEDULED")}
    assert scheduled
    assert len(stand.runs("SCHEDULED")) > 1


def test_a_copied_picture_is_soon_in_a_version_and_no_burst_is_lost(stand):
    assert arrivals(stand, 1)["arrivals"] == 1
    assert bursts(stand, 2)["lost"] == 0


def test_runs_at_once_all_complete_and_versions_follow_each_other(stand):
    found = together(stand, 0)
    assert found["statuses"] == [0, 0]
    assert found["states"] == ["COMPLETED"]
    assert found["versions_follow"]
    version, shards = latest_version(stand.store), stand.shards()
    assert version.counts["ok"] == version.counts["images"] == len(stand.paths())
    assert sum(map(len, shards.values())) == len(stand.paths()), "nothing was extracted twice"
    assert set(shards) == set(version.shards)
    assert not list(verify_space(stand.store, is_deep=True))


def test_what_arrives_in_the_inbox_is_predicted_and_trains_nothing(stand):
    """Each event computes the new images alone, and adds their rows to those of images that are gone."""
    until("no run", stand.is_idle)
    before, out = (stand.versions(), len(stand.runs())), stand.folder / "predictions.csv"

    def rows() -> dict[str, str]:
        with out.open(newline="") as file:
            return {row["path"]: row["status"] for row in csv.DictReader(file)}

    for number in range(2):
        toy.picture(stand.folder / "inbox" / f"{number}.png", 80_000 + number)
    until("two predictions", lambda: out.exists() and rows() == {"0.png": "ok", "1.png": "ok"}, every=0.5)
    (stand.folder / "inbox" / "0.png").unlink()
    toy.picture(stand.folder / "inbox" / "deep" / "2.png", 80_002)
    until("a third one", lambda: len(rows()) == 3, every=0.5)
    until("no run", stand.is_idle)
    assert set(rows().values()) == {"ok"}
    assert stand.versions() == before[0]
    scheduled = [run for run in stand.runs()[before[1] :] if (run["created_by"] or {}).get("type") != "SCHEDULE"]
    assert scheduled == []


def test_a_run_that_is_cancelled_leaves_no_process_and_the_next_goes_on(stand):
    until("no run", stand.is_idle)
    given, before = words_of({"epochs": 5000, "patience": 5000}), stand.versions()
    created = stand.must("prefect", "deployment", "run", "extract-and-train", *given)
    run_id = re.search(r"UUID: (\S+)", created).group(1)
    until("a training", lambda: trained_logs(stand.folder / "store"))
    processes = [pid for run in stand.process("flow") for pid in (run, *children_of(run))]
    assert len(processes) > 1, "the training is in a child"
    stand.must("prefect", "flow-run", "cancel", run_id)
    until("the run is cancelled", lambda: run_id in [run["id"] for run in stand.runs("CANCELLED")], every=1)
    until("its processes end", lambda: not any(Path(f"/proc/{pid}").exists() for pid in processes), 60)
    failed = json.loads(stand.must("prefect", "task-run", "ls", "--state-type", "FAILED", "-o", "json"))
    assert run_id not in [task["flow_run_id"] for task in failed]
    stand.must("prefect", "deployment", "run", "extract-and-train", "--watch", *words_of({"epochs": 3}))
    assert stand.versions() == before


def test_a_watcher_that_is_cancelled_ends(stand):
    """A second one, which a worker runs; that of the installation stays."""
    created = stand.must("prefect", "deployment", "run", "watch-images")
    run_id = re.search(r"UUID: (\S+)", created).group(1)
    seen = ["prefect", "flow-run", "ls", "--flow-name", "watch-images", "-o", "json", "--state-type"]
    until("it watches", lambda: run_id in stand.must(*seen, "RUNNING"), every=1)
    stand.must("prefect", "flow-run", "cancel", run_id)
    until("it is cancelled", lambda: run_id in stand.must(*seen, "CANCELLED"), every=1)


@pytest.mark.parametrize("victims", DRAWN)
def test_after_a_death_the_next_run_completes_and_nothing_is_extracted_twice(stand, victims):
    found = crash(stand, VICTIMS[victims], list(VICTIMS).index(victims))
    assert found["of_them_adopted"] == found["shards_at_death"]
    assert found["extracted_twice"] == 0
    assert found["left_running"] == 0


def test_the_commands_for_a_server_of_ones_own_do_the_same(stand, password):
    """Without the profile that `up` makes: Prefect finds the plugin by the project's own settings.

    After it the deployments have the parameters of the file, no longer those of the stand.
    """
    own = {name: value for name, value in stand.environment.items() if name != "PREFECT_HOME"}
    own |= {"PREFECT_API_URL": f"http://127.0.0.1:{stand.port}/api", "PREFECT_API_AUTH_STRING": password}
    own |= {"PREFECT_HOME": str(stand.folder / "another")}
    given = {
        "images": stand.images,
        "store": stand.folder / "store",
        "weights": "random",
        "image_size": 32,
        "epochs": 3,
    }
    for words in (
        ["--no-prompt", "deploy", "--prefect-file", "deployments/prefect.yaml", "--all"],
        ["deployment", "run", "extract-and-train", "--watch", *words_of(given)],
    ):
        done = stand.call("prefect", *words, environment=own, cwd=PROJECT)
        assert done.returncode == 0, done.stdout + done.stderr


def words_of(parameters: dict) -> list[str]:
    return [word for name, value in parameters.items() for word in ("--param", f"{name}={value}")]


def test_the_keeper_is_as_mortal_and_what_it_left_is_taken_down(stand):
    keeper = json.loads((stand.home / "state.json").read_text())["keeper"]
    os.kill(keeper, 9)
    done = stand.call("deployments", "down")
    assert done.returncode == 0, done.stderr
    assert re.search(r"down: [1-9]\d* process(es)? ended", done.stderr)
    until("nothing left", lambda: not marked(stand.home), 30)
