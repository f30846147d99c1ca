"""MLflow's scoring server for one model, with limits on what a request is and costs."""

import asyncio
import os
from pathlib import Path
from typing import Final

from r1omni.config import ServeParams
from r1omni.loopback import HOST
from r1omni.tracking.guard import App, Message, Receive, Send

REQUEST_TIMEOUT: Final = "MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT"
JSON: Final = "application/json"
HOSTS: Final = (HOST, "localhost")
_BEFORE_VALUES: Final = (b",", b"[", b"{")  # one of them, or a colon, stands before a JSON value
_VALUES_PER_ROW: Final = 8  # such characters; a row needs two to four
_BODIES_IN_MEMORY: Final = 4  # of the largest size
_EXAMPLE: Final = {"dataframe_records": [{"path": "talk.mp4"}, {"bytes": "AAAAIGZ0eXA="}]}


def scoring_app(folder: Path, serve: ServeParams) -> App:
    """MLflow's application for the model in `folder`, where its MLmodel lies; it is loaded now.

    Paths: /invocations, /ping, /health, /version, /openapi.json, /docs. Raises ValueError for a
    checkpoint that is not the registered one.
    """
    os.environ[REQUEST_TIMEOUT] = str(serve.timeout_seconds)  # init reads it
    from mlflow import pyfunc
    from mlflow.pyfunc.scoring_server import init

    app = init(pyfunc.load_model(str(folder)))
    body = {"content": {JSON: {"schema": {"type": "object"}, "example": _EXAMPLE}}}
    app.openapi()["paths"]["/invocations"]["post"]["requestBody"] = body
    return LimitedRequests(app, serve)


class RefusedRequest(Exception):
    """A request that is not passed on, with the HTTP status of its answer."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class LimitedRequests:
    """An ASGI application that passes requests within the limits of `serve` on to `app`.

    403: from a page of another server, or to another name of this host. 408: a body that takes
    longer than `timeout_seconds`. 413: a body of more than `max_body_mb`, or of many more JSON
    values than `max_rows` need, which take fifty times their size as Python objects. 415: not JSON;
    MLflow would also unpack Parquet, which expands without a limit. 503: bodies fill the memory.
    """

    def __init__(self, app: App, serve: ServeParams) -> None:
        self._app = app
        self._seconds = serve.timeout_seconds
        self._max_bytes = serve.max_body_mb * 2**20
        self._max_rows = serve.max_rows
        self._held = 0  # bytes of all bodies that are in memory now

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = bytearray()
        try:
            self._check_headers(scope)
            async with asyncio.timeout(self._seconds):
                await self._read(receive, body)
        except TimeoutError:
            await _refuse(send, 408, f"the body took more than {self._seconds} s")
        except RefusedRequest as refused:
            await _refuse(send, refused.status, str(refused))
        else:
            await self._app(scope, _replay(bytes(body), receive), send)
        finally:
            self._held -= len(body)

    def _check_headers(self, scope: Message) -> None:
        """Raise RefusedRequest for what the headers alone tell."""
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get("host", ""), headers.get("origin")
        if host.partition(":")[0] not in HOSTS or origin not in (None, f"http://{host}"):
            raise RefusedRequest(403, "this page belongs to another server")
        if scope["method"] != "POST":
            return
        if headers.get("content-type", "").partition(";")[0].strip() != JSON:
            raise RefusedRequest(415, f"expected the Content-Type {JSON}")
        if int(headers.get("content-length", 0)) > self._max_bytes:
            raise RefusedRequest(413, self._too_large())

    def _too_large(self) -> str:
        return f"a body may have {self._max_bytes:,} bytes (serve.max_body_mb)"

    async def _read(self, receive: Receive, body: bytearray) -> None:
        """Add the request's body to `body`. Raises RefusedRequest before it exceeds a limit."""
        n_values, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RefusedRequest(400, "the client has left")
            chunk, more = message.get("body", b""), message.get("more_body", False)
            n_values += sum(chunk.count(mark) for mark in _BEFORE_VALUES)
            if len(body) + len(chunk) > self._max_bytes:
                raise RefusedRequest(413, self._too_large())
            if n_values > _VALUES_PER_ROW * (self._max_rows + 1):
                reason = f"a request may have {self._max_rows} rows (serve.max_rows)"
                raise RefusedRequest(413, reason)
            if self._held + len(chunk) > _BODIES_IN_MEMORY * self._max_bytes:
                raise RefusedRequest(503, "the bodies of other requests fill the memory")
            body += chunk
            self._held += len(chunk)


def _replay(body: bytes, receive: Receive) -> Receive:
    """`receive` for a request whose body has been read."""
    messages = [{"type": "http.request", "body": body}]

    async def replayed() -> Message:
        return messages.pop() if messages else await receive()

    return replayed


async def _refuse(send: Send, status: int, reason: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{reason}\n".encode()})
