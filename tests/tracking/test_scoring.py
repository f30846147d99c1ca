"""The limits in front of MLflow's application, with an application that echoes."""

import asyncio
from typing import Any

from r1omni.inference.options import DEFAULTS
from r1omni.tracking.scoring import LimitedRequests

SMALL = DEFAULTS.serve.model_copy(update={"max_body_mb": 1, "timeout_seconds": 0.2})
HEADERS = [(b"host", b"localhost:5001"), (b"content-type", b"application/json")]
MIB = 2**20


async def echo(scope: Any, receive: Any, send: Any) -> None:
    message = await receive()
    await asyncio.sleep(0.3)  # other requests arrive
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": message["body"]})


async def ask(app: Any, *chunks: bytes, complete: bool = True) -> tuple[int, bytes]:
    """Status and body of the answer to a POST; an incomplete body never ends."""
    messages = [{"type": "http.request", "body": c, "more_body": True} for c in chunks]
    if complete:
        messages.append({"type": "http.request", "body": b"", "more_body": False})
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0) if messages else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "http", "method": "POST", "headers": HEADERS}, receive, send)
    return sent[0]["status"], sent[1]["body"]


def test_a_body_arrives_whole_and_one_that_is_late_is_given_up() -> None:
    app = LimitedRequests(echo, SMALL)
    assert asyncio.run(ask(app, b"ab", b"c")) == (200, b"abc")
    status, reason = asyncio.run(ask(app, b"ab", complete=False))
    assert (status, reason) == (408, b"the body took more than 0.2 s\n")


def test_bodies_that_fill_the_memory_are_turned_away_until_others_are_answered() -> None:
    """Four of the largest size are held at once; of six that arrive together two are refused."""
    app = LimitedRequests(echo, SMALL)

    async def six() -> list[tuple[int, bytes]]:
        return await asyncio.gather(*(ask(app, b" " * MIB) for _ in range(6)))

    for _ in range(2):
        assert sorted(status for status, _ in asyncio.run(six())) == [200] * 4 + [503] * 2


def test_a_byte_or_a_value_more_than_allowed_is_refused() -> None:
    app = LimitedRequests(echo, SMALL)
    most = 8 * (SMALL.max_rows + 1)
    assert asyncio.run(ask(app, b" " * MIB))[0] == 200
    assert asyncio.run(ask(app, b" " * MIB, b" "))[0] == 413
    assert asyncio.run(ask(app, b"," * most))[0] == 200
    assert asyncio.run(ask(app, b"," * most, b"["))[0] == 413
