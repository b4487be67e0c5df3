"""The child process: takes jobs on standard input, answers on standard output, one JSON record a line.

Started as `python -m tasks.worker`; imports storage and vision and no Prefect. An answer to a job is
`accepted`, any number of `progress`, then `result` or `error`. It leaves when its parent is gone, and
after IDLE_SECONDS without a job.
"""

import json
import os
import queue
import signal
import sys
import threading
import traceback
from dataclasses import asdict
from typing import Any, BinaryIO

from tasks.records import ChunksJob, HeadJob

IDLE_SECONDS = 30.0


def main() -> None:
    # Ctrl-C reaches the whole group; it is the parent that decides when a child stops.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What TensorFlow prints must not fall between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    jobs: queue.Queue[dict] = queue.Queue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, jobs), daemon=True).start()
    while True:
        try:
            job = jobs.get(timeout=IDLE_SECONDS)
        except queue.Empty:
            os._exit(0)  # a plain return would wait for the lock of standard input, which the listener holds
        _answer(answers, {"accepted": True})
        _answer(answers, _run(job, lambda record: _answer(answers, {"progress": record})))


def _listen(requests: BinaryIO, jobs: queue.Queue[dict]) -> None:
    """Queue what the parent asks for; the end of the pipe is the end of the parent, and of this process."""
    for line in requests:
        jobs.put(json.loads(line))
    os._exit(0)


def _run(job: dict, report) -> dict[str, Any]:
    try:
        return {"result": _perform(job, report)}
    except Exception as error:  # whatever it is, the parent is told, and this child goes on
        print(traceback.format_exc(), file=sys.stderr, flush=True)
        place = {"errno": getattr(error, "errno", None), "filename": getattr(error, "filename", None)}
        return {"error": {"kind": type(error).__name__, "message": str(error), **place}}


def _perform(job: dict, report) -> dict | list[dict]:
    if job["kind"] == "chunks":
        from tasks.chunk import process_chunks
        from vision.engines import load_engine

        chunks = ChunksJob.of(job["job"])
        engine = load_engine(chunks.engine, chunks.space.spec, chunks.space.weights, chunks.threads)
        return [asdict(result) for result in process_chunks(chunks, engine, report)]
    from tasks.heads import train_head

    return asdict(train_head(HeadJob.of(job["job"]), report))


def _answer(answers, record: dict) -> None:
    answers.write(json.dumps(record).encode() + b"\n")


if __name__ == "__main__":
    main()
