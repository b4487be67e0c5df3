"""The limits of the server, each with its reason."""

from dataclasses import dataclass

MB = 1_000_000


@dataclass(frozen=True)
class Limits:
    """What one request may hold, and what all of them may hold together.

    image_bytes: of one file, before decoding; the decoder refuses more than 89 million pixels by itself. request_bytes: of a
    body. images: per request. waiting_images: of all requests, decoded or not. open_requests: read or answered at a time.
    held_bytes: of all bodies in memory. answer_seconds: from the whole body to the answer. body_seconds: for the whole
    body. pause_seconds: between two pieces of it.
    """

    image_bytes: int = 20 * MB
    request_bytes: int = 64 * MB
    images: int = 32
    waiting_images: int = 256
    open_requests: int = 128
    held_bytes: int = 512 * MB
    answer_seconds: float = 60.0
    body_seconds: float = 120.0
    pause_seconds: float = 15.0
