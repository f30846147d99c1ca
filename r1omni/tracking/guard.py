"""MLflow's server behind a password: a request without it gets 401, a foreign page's gets 403.

MLflow's `basic-auth` is not used: it needs Flask-WTF and a second data base with its own users, and
here is one user. `pyproject.toml` names `create_app` to MLflow, which starts it by --app-name.
"""

import base64
import binascii
import hmac
import os
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from r1omni.loopback import read_secret

APP = "r1omni"  # the name in pyproject.toml
USER = "r1omni"
SECRET_FILE = "R1OMNI_UI_SECRET_FILE"  # set by whoever starts the server
OPEN = ("/health", "/version")  # the paths that MLflow itself exempts from its checks

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


def create_app() -> App:
    """MLflow's application, guarded by the secret in the file that SECRET_FILE names."""
    from mlflow.server.fastapi_app import app

    return guarded(app, read_secret(Path(os.environ[SECRET_FILE])))


def guarded(app: App, secret: str) -> App:
    """The ASGI application that passes on to `app` what has the password (HTTP Basic).

    A browser that knows the password sends it for any page that asks. MLflow refuses foreign pages,
    but takes those of every port of this machine: here they are refused, too.
    """
    expected = f"{USER}:{secret}".encode()

    async def guard(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if b"origin" in headers and headers[b"origin"] != b"http://" + headers.get(b"host", b""):
            await _refuse(scope, send, 403, b"this page belongs to another server\n")
        elif scope["path"] in OPEN or _knows(headers.get(b"authorization", b""), expected):
            await app(scope, receive, send)
        else:
            await _refuse(scope, send, 401, b"a password is needed\n")

    return guard


async def _refuse(scope: Message, send: Send, status: int, why: bytes) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    challenge = (b"www-authenticate", b'Basic realm="r1omni", charset="UTF-8"')
    headers = [challenge] if status == 401 else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": why})


def _knows(given: bytes, expected: bytes) -> bool:
    scheme, _, token = given.partition(b" ")
    try:
        shown = base64.b64decode(token, validate=True)
    except binascii.Error:
        return False
    return scheme.lower() == b"basic" and hmac.compare_digest(shown, expected)
