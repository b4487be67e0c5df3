"""The routes of the server."""

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from serving.batcher import Answer, Upload
from serving.guard import Guard
from serving.limits import Limits
from serving.metrics import Metrics
from serving.model import Following, Model
from serving.refusal import Refusal
from serving.schemas import BODY, REFUSALS, UNUSABLE, Described, Predictions, State, prediction
from serving.uploads import Budget, neighbours_of, uploads_of
from workers.errors import PoolClosed, WorkerDied

PAGE = Path(__file__).parent / "page"
FILES = {"/": "page.html", "/page.js": "page.js", "/page.css": "page.css"}
CODES = {404: "not_found", 405: "method_not_allowed"}


def create_app(following: Following, token: str | None = None) -> ASGIApp:
    """The ASGI application. It closes `following` when the server stops."""

    @asynccontextmanager
    async def lifespan(_: FastAPI):
        yield
        await following.close()

    limits, metrics = following.options.limits, Metrics(following)
    # FastAPI's pages of the OpenAPI document load scripts from elsewhere, which the policy of the pages forbids.
    app = FastAPI(title="extract-and-train", docs_url=None, redoc_url=None, redirect_slashes=False, lifespan=lifespan)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Refusal, _refused)
    _add_states(app, following, metrics)
    _add_predict(app, following, limits, metrics)
    for path, name in FILES.items():
        app.add_api_route(path, _file(name), include_in_schema=False)
    routes = {"/openapi.json", "/predict", "/model", "/health", "/ready", "/metrics", *FILES}
    return Guard(app, token, limits, metrics, routes)


def _add_states(app: FastAPI, following: Following, metrics: Metrics) -> None:
    @app.get("/health", summary="Whether the server lives", response_model=State)
    async def health() -> JSONResponse:
        return JSONResponse({"status": "ok"})

    @app.get(
        "/ready", summary="Whether the server takes requests", response_model=State, responses={503: REFUSALS[503]}
    )
    async def ready() -> JSONResponse:
        _check_open(following)
        return JSONResponse({"status": "ready"})

    @app.get("/model", summary="The head that answers", response_model=Described, responses={401: REFUSALS[401]})
    async def model() -> JSONResponse:
        return JSONResponse(following.model.record)

    @app.get("/metrics", summary="Figures for Prometheus", response_class=Response, responses={401: REFUSALS[401]})
    async def figures() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")


def _add_predict(app: FastAPI, following: Following, limits: Limits, metrics: Metrics) -> None:
    budget = Budget(limits)

    @app.post(
        "/predict",
        summary="Classify images",
        description="`?square=1` adds the pixels that the network sees, `?neighbours=N` the nearest training pictures.",
        response_model=Predictions,
        responses={**REFUSALS, 422: UNUSABLE},
        openapi_extra=BODY,
    )
    async def predict(request: Request) -> JSONResponse:
        _check_open(following)
        async with uploads_of(request, limits, budget) as uploads:
            model = following.model
            answers = await _answers(model, uploads, limits)
        top = neighbours_of(request)
        nearest = await model.nearest.of(answers, top)
        for answer in answers:
            metrics.images.labels(answer.reason or "ok").inc()
        return _response(model, uploads, answers, nearest)


def _check_open(following: Following) -> None:
    if following.is_stopping:
        raise Refusal(503, "stopping", "the server is stopping")


async def _answers(model: Model, uploads: list[Upload], limits: Limits) -> list[Answer]:
    try:
        async with asyncio.timeout(limits.answer_seconds):
            return await model.answers(uploads)
    except TimeoutError:
        raise Refusal(503, "timeout", f"there is no answer after {limits.answer_seconds:g} s", 5) from None
    except (WorkerDied, PoolClosed):
        raise Refusal(503, "unavailable", "the process that computes ended; try again", 5) from None


def _response(
    model: Model, uploads: list[Upload], answers: list[Answer], nearest: list[list[dict[str, Any]] | None]
) -> JSONResponse:
    parts = zip(uploads, answers, nearest, strict=True)
    found = [prediction(upload, answer, model.head.classes, near).model_dump() for upload, answer, near in parts]
    body = {"head": model.head.name, "fingerprint": model.head.fingerprint, "predictions": found}
    if any(answer.status == "ok" for answer in answers):
        return JSONResponse(body)
    return JSONResponse({"code": found[0]["reason"], "message": found[0]["message"], **body}, 422)


def _file(name: str):
    async def file() -> FileResponse:
        return FileResponse(PAGE / name)

    return file


async def _refused(_: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, Refusal)
    return JSONResponse(refusal.body, refusal.status, refusal.headers)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = CODES.get(error.status_code, "refused")
    return JSONResponse({"code": code, "message": str(error.detail)}, error.status_code, error.headers)
