"""What surrounds every request: headers that forbid, the token, the limit of open requests, and the count of it all."""

import hmac
import json
import logging
import time
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.limits import Limits
from serving.metrics import Metrics
from serving.refusal import Refusal

logger = logging.getLogger(__name__)

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
# A page asks for the token, and a probe has none.
OPEN = ("/", "/page.js", "/page.css", "/health", "/ready")


class Guard:
    """ASGI middleware. token: what clients must send as `Authorization: Bearer`; None: nothing.

    routes: paths that are counted by name; others are counted as `other`, or a scanner would fill the memory.
    """

    def __init__(self, app: ASGIApp, token: str | None, limits: Limits, metrics: Metrics, routes: Iterable[str]):
        self._app, self._limits, self._metrics, self._routes = app, limits, metrics, frozenset(routes)
        self._token = None if token is None else token.encode()
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        began, status = time.perf_counter(), 500
        has_started = False

        async def answer(message: Message) -> None:
            nonlocal status, has_started
            if message["type"] == "http.response.start":
                status, has_started = message["status"], True
                message["headers"] = [*message.get("headers", []), *_encoded(HEADERS)]
            await send(message)

        self._open += 1
        self._metrics.open_requests.set(self._open)
        try:
            self._check(scope)
            await self._app(scope, receive, answer)
        except Refusal as refusal:
            await _respond(refusal, answer)
        except Exception:
            logger.exception("a request to %s failed", scope["path"])
            if not has_started:
                await _respond(Refusal(500, "internal", "the server failed; its log says why"), answer)
        finally:
            self._open -= 1
            self._metrics.open_requests.set(self._open)
            route = scope["path"] if scope["path"] in self._routes else "other"
            self._metrics.requests.labels(route, str(status)).inc()
            if route == "/predict":
                self._metrics.seconds.observe(time.perf_counter() - began)

    def _check(self, scope: Scope) -> None:
        """Raises Refusal without the token, or if too many requests are open."""
        if self._token is not None and scope["path"] not in OPEN:
            given = dict(scope["headers"]).get(b"authorization", b"")
            kind, _, token = given.partition(b" ")
            if kind.lower() != b"bearer" or not hmac.compare_digest(token.strip(), self._token):
                raise Refusal(401, "unauthorized", "send the token as `Authorization: Bearer TOKEN`")
        if self._open > self._limits.open_requests and scope["path"] not in OPEN:
            raise Refusal(429, "too_many_requests", f"{self._limits.open_requests} requests are open; try again", 1)


async def _respond(refusal: Refusal, send: Send) -> None:
    body = json.dumps(refusal.body).encode()
    headers = refusal.headers | {"Content-Type": "application/json", "Content-Length": str(len(body))}
    await send({"type": "http.response.start", "status": refusal.status, "headers": _encoded(headers)})
    await send({"type": "http.response.body", "body": body})


def _encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]
