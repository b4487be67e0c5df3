"""The JSON of requests and responses, for clients and for the OpenAPI document."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from serving.batcher import Answer, Upload
from serving.uploads import Base64Images
from storage.reasons import MEANINGS


class Neighbour(BaseModel):
    """A training picture that is similar to an image."""

    model_config = ConfigDict(serialize_by_alias=True)
    path: str
    label: str = Field(alias="class")
    similarity: float = Field(description="cosine of the pooled features")
    thumbnail: str | None = Field(description="base64 of a JPEG; null if the file cannot be read or has changed")


class Prediction(BaseModel):
    """The answer for one image. class and probability are those of the most probable class; null unless ok."""

    model_config = ConfigDict(serialize_by_alias=True)
    name: str | None = Field(description="name of the file in the form; null if it has none")
    status: Literal["ok", "quarantined", "pending"] = Field(description="ok: classified; else the image cannot be used")
    label: str | None = Field(alias="class")
    probability: float | None
    probabilities: dict[str, float] = Field(description="class → probability; empty unless ok")
    reason: str | None = Field(description="why the image cannot be used, a code of docs/images.md; null if ok")
    message: str | None = Field(description="what the reason means; null if ok")
    square: str | None = Field(description="base64 of a PNG: the pixels that the network sees, if asked for")
    neighbours: list[Neighbour] | None = Field(description="the nearest training pictures, if asked for and known")


class Predictions(BaseModel):
    """The answers for the images of a request, in their order. One head gave all of them."""

    head: str
    fingerprint: str
    predictions: list[Prediction]


class Error(BaseModel):
    """Why a request was refused."""

    code: str
    message: str


class Unusable(Predictions, Error):
    """No image of the request can be used. code and message: those of the first one."""


class Described(BaseModel):
    """The head that answers now."""

    head: str
    classes: list[str]
    fingerprint: str = Field(description="the feature space that the head was trained on")
    version: int = Field(description="the version of the store that the head was trained on")
    engine: str = Field(description="the library that computes features")
    image_size: int
    is_fine_tuned: bool
    created: str | None
    metrics: dict[str, Any] = Field(
        description="accuracy and loss on the validation images, and how long training took"
    )
    test: dict[str, Any] | None = Field(description="accuracy and loss on the test images")


class State(BaseModel):
    """Whether the server lives, or is ready."""

    status: str


FILE = {"type": "string", "format": "binary"}
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"files": {"type": "array", "items": FILE, "minItems": 1}},
                    "required": ["files"],
                }
            },
            "application/json": {"schema": Base64Images.model_json_schema()},
            "image/*": {"schema": FILE},
            "application/octet-stream": {"schema": FILE},
        },
    }
}
WHY = {
    400: "the request is not HTTP, or the client left",
    401: "the token is missing or wrong",
    408: "the body arrived too slowly",
    413: "too many bytes or images",
    415: "another content type",
    429: "too many requests or images wait",
    503: "no answer in time, or the server stops",
}
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Error, "description": text} for status, text in WHY.items()
}
UNUSABLE = {"model": Unusable | Error, "description": "the body cannot be read, or no image in it can be used"}


def prediction(
    upload: Upload, answer: Answer, classes: tuple[str, ...], neighbours: list[dict[str, Any]] | None
) -> Prediction:
    """The answer for one image with the names of its classes."""
    found = dict(zip(classes, answer.probabilities, strict=True)) if answer.status == "ok" else {}
    best = max(found, key=lambda name: found[name], default=None)
    return Prediction.model_validate(
        {
            "name": upload.name,
            "status": answer.status,
            "class": best,
            "probability": found.get(best) if best is not None else None,
            "probabilities": found,
            "reason": answer.reason,
            "message": MEANINGS.get(answer.reason or "", answer.message),
            "square": answer.square,
            "neighbours": neighbours,
        }
    )
