"""MLflow's server behind a password: 401 without it, 403 for a page of another server.

MLflow's `basic-auth` is not used: it needs Flask-WTF and a second database of users, and this
server has one user. `pyproject.toml` registers `create_app`, which MLflow starts by --app-name.
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
OPEN = ("/health", "/version")  # MLflow exempts these paths from its own checks

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


def create_app() -> App:
    """MLflow's application behind the secret in the file that SECRET_FILE names."""
    from mlflow.server.fastapi_app import app

    return require_password(app, read_secret(Path(os.environ[SECRET_FILE])))


def require_password(app: App, secret: str) -> App:
    """An ASGI application that passes requests with the password (HTTP Basic) on to `app`.

    A browser that knows the password sends it with the requests of any page. MLflow refuses pages
    of other hosts but accepts every port of this machine; here those are refused, too.
    """
    expected = f"{USER}:{secret}".encode()

    async def guard(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if b"origin" in headers and headers[b"origin"] != b"http://" + headers.get(b"host", b""):
            await _refuse(scope, send, 403, b"this page belongs to another server\n")
        elif scope["path"] in OPEN or _has_password(headers.get(b"authorization", b""), expected):
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


def _has_password(given: bytes, expected: bytes) -> bool:
    scheme, _, token = given.partition(b" ")
    try:
        shown = base64.b64decode(token, validate=True)
    except binascii.Error:
        return False
    return scheme.lower() == b"basic" and hmac.compare_digest(shown, expected)
