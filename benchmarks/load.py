"""Load on a server: clients that post the same body, each again as soon as it has the answer.

`hey` makes the requests if it is installed (`apt-get install hey`), because it hardly uses the cores that the server needs.
Otherwise httpx does, which takes a few ms of a core per request.
"""

import asyncio
import csv
import io
import shutil
import statistics
import subprocess
import time
from dataclasses import dataclass

import httpx
import numpy as np

BOUNDARY = "boundary-of-a-form"


@dataclass(frozen=True)
class Load:
    """requests_per_second: of a run. seconds: of each request."""

    requests_per_second: float
    seconds: list[float]


def client() -> str:
    """The program that makes the requests."""
    return "hey" if shutil.which("hey") else "httpx"


def form(field: str, picture: bytes) -> bytes:
    """The body of a form with one JPEG."""
    part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="photo.jpg"\r\n'
    return f"{part}Content-Type: image/jpeg\r\n\r\n".encode() + picture + f"\r\n--{BOUNDARY}--\r\n".encode()


def load(url: str, body: bytes, concurrency: int, seconds: float) -> Load:
    """Post the body for some seconds, after one request of each client to warm up. Raises RuntimeError if a request fails."""
    if client() == "hey":
        _hey(url, body, concurrency, ["-n", str(concurrency)])
        return _hey(url, body, concurrency, ["-z", f"{seconds}s"])
    return asyncio.run(_httpx(url, body, concurrency, seconds))


def figures(found: list[Load]) -> dict[str, float]:
    """Requests per second, the median of the runs, and percentiles of all their requests."""
    took = [seconds for each in found for seconds in each.seconds]
    percentiles = {f"p{p}_ms": round(1000 * float(np.percentile(took, p))) for p in (50, 95, 99)}
    rate = statistics.median(each.requests_per_second for each in found)
    return {"requests_per_second": round(rate, 2), "requests": len(took)} | percentiles


def _hey(url: str, body: bytes, concurrency: int, until: list[str]) -> Load:
    words = ["-c", str(concurrency), "-m", "POST", "-T", f"multipart/form-data; boundary={BOUNDARY}", "-t", "300"]
    command = ["hey", *until, *words, "-o", "csv", "-D", "/dev/stdin", url]
    done = subprocess.run(command, input=body, capture_output=True, check=True)
    rows = list(csv.DictReader(io.StringIO(done.stdout.decode())))
    failed = [row["status-code"] for row in rows if row["status-code"] != "200"]
    if failed or not rows:
        raise RuntimeError(f"{len(failed)} of {len(rows)} requests failed: {set(failed)} {done.stderr.decode()}")
    took = [float(row["response-time"]) for row in rows]
    whole = max(float(row["offset"]) + seconds for row, seconds in zip(rows, took, strict=True))
    return Load(len(rows) / whole, took)


async def _httpx(url: str, body: bytes, concurrency: int, seconds: float) -> Load:
    took: list[float] = []
    limits, headers = (
        httpx.Limits(max_connections=concurrency),
        {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"},
    )
    async with httpx.AsyncClient(timeout=300, trust_env=False, limits=limits, headers=headers) as session:

        async def ask() -> None:
            answer = await session.post(url, content=body)
            if answer.status_code != 200:
                raise RuntimeError(f"{answer.status_code}: {answer.text[:200]}")

        async def ask_until(end: float) -> None:
            while (began := time.perf_counter()) < end:
                await ask()
                took.append(time.perf_counter() - began)

        await asyncio.gather(*(ask() for _ in range(concurrency)))
        began = time.perf_counter()
        await asyncio.gather(*(ask_until(began + seconds) for _ in range(concurrency)))
        return Load(len(took) / (time.perf_counter() - began), took)
