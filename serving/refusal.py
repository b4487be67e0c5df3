"""Why a request gets no answer: a status of HTTP, a code for programs and a message for people."""

from typing import Any


class Refusal(Exception):
    """A request that is refused. status: of HTTP. code: stable, in docs/serving.md. retry_seconds: when to try again."""

    def __init__(self, status: int, code: str, message: str, retry_seconds: int | None = None):
        super().__init__(message)
        self.status, self.code, self.message, self.retry_seconds = status, code, message, retry_seconds

    @property
    def body(self) -> dict[str, Any]:
        """The JSON of the response."""
        return {"code": self.code, "message": self.message}

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the response beyond its JSON."""
        scheme = {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}
        return scheme if self.retry_seconds is None else {"Retry-After": str(self.retry_seconds)}
