"""The child process: reads jobs from standard input and answers on standard output, one JSON record per line.

Its parent starts it as `python -m workers.children.child`. It imports storage and vision, and no Prefect. The answer
to a job is `accepted`, any number of `progress`, then `result` or `error`. The child exits when its parent is gone,
and after IDLE_SECONDS without a job.
"""

import json
import os
import queue
import signal
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from storage.finite import finite
from workers.children.failure import Failure
from workers.children.in_flight import InFlight
from workers.jobs.perform import perform

IDLE_SECONDS = 30.0
WARM_SECONDS = 300.0  # after a warm-up: its run may take minutes to start Prefect for the first time
FIRST_TO_GO = "500"  # of 1,000: when memory runs out, the kernel should kill a child and not its parent
_one_at_a_time = threading.Lock()


def main() -> None:
    """Run jobs until the parent is gone or IDLE_SECONDS pass without a job."""
    # Ctrl-C signals the whole process group, but the parent decides when a child stops.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(OSError):  # only Linux has it
        Path("/proc/self/oom_score_adj").write_text(FIRST_TO_GO)
    # TensorFlow's prints go to standard error, so that they do not mix with the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    jobs: queue.Queue[dict] = queue.Queue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, jobs), daemon=True).start()
    idle_seconds = IDLE_SECONDS
    while True:
        try:
            job = jobs.get(timeout=idle_seconds)
        except queue.Empty:
            os._exit(0)  # a plain return would wait for the lock of standard input, which the listener thread holds
        _answer(answers, {"accepted": True})
        _answer(answers, _run(job, lambda record: _answer(answers, {"progress": record})))
        idle_seconds = WARM_SECONDS if job["kind"] == "load" else IDLE_SECONDS


def _listen(requests: BinaryIO, jobs: queue.Queue[dict]) -> None:
    """Queue the parent's jobs. The end of the pipe means that the parent is gone, so this process exits."""
    for line in requests:
        jobs.put(json.loads(line))
    os._exit(0)


def _run(job: dict, report) -> dict[str, Any]:
    try:
        return {"result": _perform(job, report)}
    except Exception as error:  # the parent receives any error, and this child takes the next job
        print(traceback.format_exc(), file=sys.stderr, flush=True)
        return {"error": Failure.of(error).record()}


def _perform(request: dict, report) -> dict | list[dict]:
    return perform(request["kind"], request["job"], report, InFlight(request["in_flight"]))


def _answer(answers, record: dict) -> None:
    line = json.dumps(finite(record), allow_nan=False).encode() + b"\n"
    with _one_at_a_time:
        answers.write(line)


if __name__ == "__main__":
    main()
