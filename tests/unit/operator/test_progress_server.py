"""The progress server under attack, in this process, over real sockets: one sender never takes it from the others.

Real tokens and the API server's own review: tests/integration/operator/test_progress.py.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from rewarm_api.reported import MAXIMUM_BODY
from rewarm_cluster.processes import free_ports
from rewarm_operator import guard, progress
from rewarm_operator.guard import Allowance, GuardedSite, claimed_pod, is_hopeless, unverified_claims
from rewarm_operator.progress import ProgressServer

FRIEND, ENEMY = "127.0.0.1", "127.0.0.2"
BODY = {"rewarm": {"progress": {"step": 1, "tokens": 8, "targetTokens": 16, "percent": 50, "tokensPerSecond": 1.0}}}


def token_of(run: str, signature: str, *, pod: str = "", audience: str = "", expires_in: float = 3600) -> str:
    """In the form of the API server's; only `good` as a signature is worth something."""
    claims = {
        "aud": [audience or f"rewarm.dev/ns/{run}/uid-{run}"],
        "exp": time.time() + expires_in,
        "kubernetes.io": {"pod": {"uid": pod or f"pod-{run}"}},
    }
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"head.{body}.{signature}"


class Place:
    """Two runs, `a` and `b`, each with its rank 0, and the API server's opinion of tokens."""

    def __init__(self) -> None:
        self.reviews = 0
        self.heard: list[str] = []
        self.port = free_ports(1)[0]

    async def create(self, resource: Any, namespace: Any, body: dict[str, Any]) -> dict[str, Any]:
        self.reviews += 1
        token, audiences = body["spec"]["token"], body["spec"]["audiences"]
        good = token.endswith(".good")
        extra = {progress.POD_UID: [claimed_pod(unverified_claims(token))]}
        return {"status": {"authenticated": good, "audiences": audiences if good else [], "user": {"extra": extra}}}

    def store(self) -> Any:
        labels = {"rewarm.dev/attempt": "1", "rewarm.dev/role": "trainer", progress.INDEX: "0"}

        def pod(run: str) -> dict[str, Any]:
            owner = {"kind": "Job", "uid": f"job-{run}"}
            return {"metadata": {"uid": f"pod-{run}", "labels": labels, "ownerReferences": [owner]}}

        return SimpleNamespace(
            runs={("ns", run): {"metadata": {"uid": f"uid-{run}"}} for run in "ab"},
            pods=lambda uid: [pod(uid[-1])],
            jobs=lambda uid: [{"metadata": {"uid": f"job-{uid[-1]}", "labels": labels}}],
            heard=lambda uid, heartbeat: self.heard.append(uid[-1]),
        )

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        server = ProgressServer(self, self.store(), lambda: True)  # type: ignore[arg-type]
        runner = web.AppRunner(server.application(), access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        await GuardedSite(runner, "127.0.0.1", self.port, None).start()
        try:
            yield
        finally:
            await runner.cleanup()

    async def post(
        self, run: str, token: str, data: Any = None, *, sender: str = FRIEND, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        connector = aiohttp.TCPConnector(local_addr=(sender, 0))
        async with aiohttp.ClientSession(connector=connector) as session:
            given = {"Authorization": f"Bearer {token}", **(headers or {})}
            url = f"http://127.0.0.1:{self.port}/v1/progress/ns/{run}"
            data = json.dumps(BODY).encode() if data is None else data
            async with session.post(url, data=data, headers=given) as answer:
                text = await answer.text()
                return answer.status, json.loads(text) if text else {}


def serve(story: Callable[[Place], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        place = Place()
        async with place.serving():
            await asyncio.wait_for(story(place), 60)

    asyncio.run(whole())


async def still_heard(place: Place, run: str = "b") -> None:
    status, answer = await place.post(run, token_of(run, "good"))
    assert status == 204, answer
    assert place.heard[-1] == run


@pytest.mark.parametrize(
    ("token", "status"),
    [
        ("no-token", 401),
        ("a.b.c", 401),
        ("a." + base64.urlsafe_b64encode(b"[" * 5000).decode() + ".c", 401),
        (token_of("a", "good", audience="rewarm.dev/ns/b/uid-b"), 401),
        (token_of("a", "good", audience="https://kubernetes.default.svc"), 401),
        (token_of("a", "good", expires_in=-3600), 401),
        (token_of("a", "good", pod="somebody-else"), 403),
    ],
)
def test_what_cannot_be_good_is_turned_away_without_asking_anybody(token: str, status: int) -> None:
    async def story(place: Place) -> None:
        answers = [await place.post("a", token, sender=ENEMY) for _ in range(3)]
        assert {answer[0] for answer in answers} == {status}
        assert place.reviews == 0
        await still_heard(place)

    serve(story)


def test_a_flood_of_forged_tokens_costs_the_api_server_little_and_others_nothing() -> None:
    async def story(place: Place) -> None:
        assert (await place.post("a", token_of("a", "good")))[0] == 204
        forged = [place.post("a", token_of("a", f"forged{n}"), sender=ENEMY) for n in range(25)]
        codes = [(await one)[0] for one in forged]
        assert set(codes) == {401, 429}
        assert place.reviews <= 1 + 21
        assert codes[-1] == 429
        await still_heard(place, "a")
        await still_heard(place, "b")

    serve(story)


def test_too_many_reports_of_one_run_are_refused_and_those_of_others_are_not() -> None:
    async def story(place: Place) -> None:
        codes = [(await place.post("a", token_of("a", "good")))[0] for _ in range(30)]
        assert codes[0] == 204
        assert codes[-1] == 429
        await still_heard(place)

    serve(story)


@pytest.mark.parametrize("sent", ["at once", "in pieces"])
def test_an_oversized_body_is_413(sent: str) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b" " * (MAXIMUM_BODY // 2)

    async def story(place: Place) -> None:
        data = b" " * (MAXIMUM_BODY + 1) if sent == "at once" else pieces()
        status, answer = await place.post("a", token_of("a", "good"), data)
        assert status == 413
        assert f"at most {MAXIMUM_BODY}" in answer["message"]
        await still_heard(place)

    serve(story)


def test_a_packed_body_is_not_unpacked() -> None:
    async def story(place: Place) -> None:
        packed = gzip.compress(b" " * (64 << 20))
        status, answer = await place.post("a", token_of("a", "good"), packed, headers={"Content-Encoding": "gzip"})
        assert status == 400
        assert "found no JSON" in answer["message"]

    serve(story)


def test_a_body_that_does_not_come_is_408_and_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "BODY_SECONDS", 0.3)

    async def story(place: Place) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
        head = f"POST /v1/progress/ns/a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token_of('a', 'good')}\r\n"
        writer.write(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
        await still_heard(place)
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"it did not come within" in answer
        writer.close()

    serve(story)


@pytest.mark.parametrize("sent", [b"", b"POST /v1/progress/ns/a HTTP/1.1\r\nHost: x\r\n"])
def test_a_connection_without_a_request_is_closed(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "IDLE_SECONDS", 0.2)

    async def story(place: Place) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
        writer.write(sent)
        assert await asyncio.wait_for(reader.read(), 20) == b""
        writer.close()
        await still_heard(place)

    serve(story)


def test_one_address_has_its_share_of_connections_and_no_more() -> None:
    async def story(place: Place) -> None:
        async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            return await asyncio.open_connection("127.0.0.1", place.port, local_addr=(ENEMY, 0))

        held = [await connect() for _ in range(guard.CONNECTIONS_OF_ONE)]
        reader, _ = await connect()
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), 20) == b""
        await still_heard(place)
        held[0][1].close()
        for _, writer in held:
            writer.close()

    serve(story)


def test_an_allowance_is_refilled_and_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(guard.time, "monotonic", lambda: now)
    monkeypatch.setattr(guard, "_REMEMBERED", 3)
    allowance = Allowance(2, 0.5)
    assert [allowance.take("a") for _ in range(3)] == [True, True, False]
    assert allowance.left("a") == 0
    now += 2
    assert [allowance.take("a") for _ in range(2)] == [True, False]
    assert allowance.take("b")
    for key in "cdef":
        allowance.take(key)
    assert len(allowance._known) == 3, "as many as anybody sends, the memory is bounded"


@pytest.mark.parametrize(
    "claims", [{}, {"aud": "x"}, {"aud": ["x"]}, {"aud": ["x"], "exp": "soon"}, {"aud": {}, "exp": 9}]
)
def test_claims_of_any_form_are_no_error(claims: dict[str, Any]) -> None:
    assert is_hopeless(claims, "x", 5)
    assert claimed_pod({"kubernetes.io": {"pod": claims}}) == ""
