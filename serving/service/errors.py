"""What a client is told when its request fails: one line, a status, and nothing of our insides."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from litestar import MediaType, Request, Response
from litestar.exceptions import ClientException, HTTPException
from litestar.openapi import ResponseSpec

from serving.batching.batch import DeadlineError, DispatcherError, OverloadError
from serving.error_answer import ErrorAnswer, one_line
from serving.http.asgi import REQUEST_ID
from serving.log_events import log_event
from serving.scorer import RequestError


def _spec(description: str) -> ResponseSpec:
    return ResponseSpec(ErrorAnswer, description=description, generate_examples=False)


ERRORS = {
    400: _spec("The request is wrong; `error` says where."),
    401: _spec("No token, where one is asked for."),
    408: _spec("The body did not arrive in time."),
    413: _spec("The body is too large."),
    415: _spec("The body is compressed."),
    421: _spec("The request is for another host."),
    503: _spec("Too busy; try again after `Retry-After`."),
    504: _spec("The deadline of the request passed."),
}


@dataclass(frozen=True)
class Refusal:
    """A status, a message of one line and headers of their own."""

    status: int
    message: str
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def header_pairs(self) -> list[tuple[bytes, bytes]]:
        """The headers as they are sent."""
        return [(name.lower().encode(), value.encode()) for name, value in self.headers.items()]


def refusal(error: Exception, method: str, path: str, request_id: str | None, max_body: int) -> Refusal:
    """For a request that failed with this error. One that is a fault of ours is logged.

    `max_body`: bytes.
    """
    if isinstance(error, RequestError):
        return Refusal(400, one_line(str(error)))
    if isinstance(error, OverloadError):
        return overloaded(error)
    if isinstance(error, DeadlineError):
        return Refusal(504, one_line(str(error)))
    if isinstance(error, HTTPException) and (error.status_code < 500 or error.status_code == 503):
        return _http_error(error, method, path, max_body)
    if not isinstance(error, DispatcherError):  # logged once, not with every request
        log_event("request_failed", logging.ERROR, error=error, method=method, path=path, request_id=request_id)
    return Refusal(500, "internal error")


def overloaded(error: OverloadError) -> Refusal:
    """For a request that is not taken."""
    return Refusal(503, one_line(str(error)), {"retry-after": error.retry_after_header})


def _http_error(error: HTTPException, method: str, path: str, max_body: int) -> Refusal:
    message = {
        404: f"no such path: {path}; see /schema",
        405: f"{path} does not take {method}; expected {(error.headers or {}).get('allow', '')}",
        413: f"the body is too large; expected at most {max_body} bytes",
    }.get(error.status_code, error.detail)
    return Refusal(error.status_code, one_line(message), dict(error.headers or {}))


def explain(request: Request[Any, Any, Any], error: Exception) -> Response[ErrorAnswer]:
    """Litestar's handler of all errors."""
    request_id, most = request.scope["state"].get(REQUEST_ID), request.app.state.service.request_limits.body
    refused = refusal(error, request.scope["method"], request.scope["path"], request_id, most)
    body = ErrorAnswer(refused.message)
    return Response(body, status_code=refused.status, media_type=MediaType.JSON, headers=refused.headers)


def client_left() -> HTTPException:
    """For the metrics: nobody reads it, and it is no fault of ours."""
    return ClientException("client disconnected prematurely")
