"""The images of a request: raw bytes, a form with files, or JSON with base64. Nothing is written to a disk."""

import asyncio
import base64
import binascii
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pydantic
from starlette.requests import ClientDisconnect, Request

from serving.batcher import Upload
from serving.form import Form, too_large, too_many
from serving.limits import Limits
from serving.nearest import MOST
from serving.refusal import Refusal

FORMS = "send multipart/form-data with files, application/json with base64, or the bytes of one image as image/*"


class Base64Images(pydantic.BaseModel):
    """The JSON body of a request."""

    model_config = pydantic.ConfigDict(extra="forbid")
    images: list[str] = pydantic.Field(description="base64 of each file", min_length=1)


class Budget:
    """The bytes of all bodies in memory."""

    def __init__(self, limits: Limits):
        self._limits, self.held = limits, 0

    def add(self, size: int) -> None:
        """Count bytes that arrived. Raises Refusal if there is no room for them."""
        if self.held + size > self._limits.held_bytes:
            raise Refusal(503, "busy", "the server holds as many bytes as it may; try again", 1)
        self.held += size


@asynccontextmanager
async def uploads_of(request: Request, limits: Limits, budget: Budget) -> AsyncIterator[list[Upload]]:
    """The images of a request, which count in the budget while the block runs. Raises Refusal."""
    body = _Body(request, limits, budget)
    try:
        yield await _received(request, body, limits)
    finally:
        budget.held -= body.taken


class _Body:
    """The pieces of a body. taken: bytes so far, which the budget holds."""

    def __init__(self, request: Request, limits: Limits, budget: Budget):
        self._pieces, self._limits, self._budget = aiter(request.stream()), limits, budget
        self.taken = 0

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        while True:
            async with asyncio.timeout(self._limits.pause_seconds):
                piece = await anext(self._pieces, None)
            if piece is None:
                return
            self._budget.add(len(piece))
            self.taken += len(piece)
            if self.taken > self._limits.request_bytes:
                raise too_large("the request", self._limits.request_bytes)
            yield piece

    async def whole(self, most: int) -> bytes:
        """All pieces. Raises Refusal if they have more bytes."""
        found = bytearray()
        async for piece in self.pieces():
            found += piece
            if len(found) > most:
                raise too_large("the image", most)
        return bytes(found)


def neighbours_of(request: Request) -> int:
    """The number of neighbours of each image that a request asks for, by default 0. Raises Refusal."""
    given = request.query_params.get("neighbours", "0")
    if not given.isdecimal() or not given.isascii() or not int(given[:9]) <= MOST:
        raise Refusal(422, "invalid_neighbours", f"neighbours={given[:20]!r}: expected 0 to {MOST}")
    return int(given)


async def _received(request: Request, body: _Body, limits: Limits) -> list[Upload]:
    wants_square = request.query_params.get("square", "") in ("1", "true")
    neighbours = neighbours_of(request)
    try:
        async with asyncio.timeout(limits.body_seconds):
            uploads = _checked(await _read(request, body, limits), limits)
            return [replace(upload, wants_square=wants_square, wants_vector=neighbours > 0) for upload in uploads]
    except TimeoutError:
        raise Refusal(408, "too_slow", "the body arrived too slowly") from None
    except ClientDisconnect:
        raise Refusal(400, "disconnected", "the client left") from None


async def _read(request: Request, body: _Body, limits: Limits) -> list[Upload]:
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared) > limits.request_bytes:
        raise too_large("the request", limits.request_bytes)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _form(request, body, limits)
    if kind == "application/json":
        return await asyncio.to_thread(_json, await body.whole(limits.request_bytes), limits)
    if kind.startswith("image/") or kind == "application/octet-stream":
        return [Upload(None, await body.whole(limits.image_bytes))]
    raise Refusal(415, "unsupported_media_type", f"the content type is {kind[:80]!r}; {FORMS}")


async def _form(request: Request, body: _Body, limits: Limits) -> list[Upload]:
    form = Form(request.headers["content-type"], limits)
    async for piece in body.pieces():
        form.add(piece)
    return [Upload(name, data) for name, data in form.files()]


def _json(body: bytes, limits: Limits) -> list[Upload]:
    try:
        images = Base64Images.model_validate_json(body).images
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise Refusal(
            422, "invalid_json", f"the JSON cannot be used: {place + ': ' if place else ''}{first['msg']}"
        ) from None
    if len(images) > limits.images:
        raise too_many(limits)
    try:
        return [Upload(None, base64.b64decode(data, validate=True)) for data in images]
    except (binascii.Error, ValueError):
        raise Refusal(422, "invalid_base64", "an image is not base64") from None


def _checked(uploads: list[Upload], limits: Limits) -> list[Upload]:
    if not uploads:
        raise Refusal(422, "no_image", f"the request has no image; {FORMS}")
    if len(uploads) > limits.images:
        raise too_many(limits)
    if any(len(upload.data) > limits.image_bytes for upload in uploads):
        raise too_large("an image", limits.image_bytes)
    return uploads
