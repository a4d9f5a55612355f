"""A reverse proxy before a real API server that does what networks and API servers do on a bad day.

It counts and remembers every write. Faults are given as data: which requests (`match`), what happens, how often. It
runs in a thread of its own, so tests stay ordinary code; what it knows is told by `wait`, never by sleeping.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp
from aiohttp import web

WRITES = ("POST", "PUT", "PATCH", "DELETE")
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host", "content-encoding"}


@dataclass(frozen=True)
class Request:
    """One request as it came in."""

    method: str
    path: str
    query: dict[str, str]
    body: Any = None

    @property
    def is_watch(self) -> bool:
        return self.query.get("watch") in ("1", "true")

    @property
    def is_write(self) -> bool:
        """Leases and token reviews are no writes on anything of a user's."""
        return self.method in WRITES and not any(word in self.path for word in ("/leases", "/tokenreviews"))

    @property
    def is_event(self) -> bool:
        return self.path.rstrip("/").split("/")[-1] == "events" or "/events/" in self.path

    @property
    def right(self) -> tuple[str, str, str] | None:
        """(API group, resource, verb) as a Role names them; None for what is no resource."""
        parts = self.path.strip("/").split("/")
        group, rest = ("", parts[2:]) if parts[0] == "api" else (parts[1] if len(parts) > 1 else "", parts[3:])
        if rest[:1] == ["namespaces"] and len(rest) > 2:
            rest = rest[2:]
        if not rest:
            return None
        collection = "watch" if self.is_watch else "list"
        verbs = {"GET": "get" if len(rest) > 1 else collection, "POST": "create", "PUT": "update"}
        return group, "/".join([rest[0], *rest[2:]]), verbs.get(self.method, self.method.lower())

    def __str__(self) -> str:
        name = (self.body or {}).get("metadata", {}).get("name", "") if self.method == "POST" else ""
        return f"{self.method} {self.path}{'/' + name if name else ''}"


Match = Callable[[Request], bool]


@dataclass
class Fault:
    """What happens to matching requests, `times` times (None: until removed)."""

    match: Match
    times: int | None = 1
    status: int | None = None
    """Answered in the API server's stead."""
    headers: dict[str, str] = field(default_factory=dict)
    reason: str = "Fault"
    drop: bool = False
    """The connection is closed without an answer."""
    forward: bool = False
    """Before that the request is really done: the caller does not learn of it."""
    delay_s: float = 0.0
    silent: bool = False
    """A watch begins and never says anything."""
    gone: bool = False
    """A watch begins and says 410 at once."""
    begin: Callable[[Request], None] | None = None
    """Called when the request comes in, before anything of it is done."""
    call: Callable[[Request], None] | None = None
    """Called when it strikes (before `forward`'s answer is dropped, after it was done)."""
    struck: int = 0


class FaultProxy:
    """A context manager. `url` is what the operator is told; `writes` what it wrote, in order."""

    def __init__(self, upstream: str, authority: Path, serving: tuple[Path, Path]) -> None:
        self._upstream = upstream
        self._tls = ssl.create_default_context(cafile=str(authority))
        self._serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._serving.load_cert_chain(*map(str, serving))
        self._faults: list[Fault] = []
        self._changed = threading.Condition()
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="fault proxy", daemon=True)
        self._connections: dict[int, web.Request] = {}
        self.away = False
        """Every connection is refused, those that stand are cut."""
        self.requests: list[Request] = []
        self.rights: set[tuple[str, str, str]] = set()
        """API group, resource and verb of every request that was allowed; never forgotten."""
        self.port = 0

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def writes(self) -> list[Request]:
        """Writes on users' objects, Events among them."""
        return [request for request in self.requests if request.is_write]

    @property
    def changes(self) -> list[Request]:
        """Writes without Events."""
        return [request for request in self.writes if not request.is_event]

    def add(self, fault: Fault) -> Fault:
        self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """No faults from now on; what was counted stays."""
        self._faults = []
        self.away = False

    def forget(self) -> None:
        """Begin to count anew."""
        self.requests = []

    def cut(self) -> None:
        """Close every connection that stands now."""
        asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result(10)

    def wait(self, condition: Callable[[], bool], within_s: float = 60) -> None:
        """Until the condition holds; looked at after every request."""
        give_up = time.monotonic() + within_s
        with self._changed:
            while not condition():
                left = give_up - time.monotonic()
                if left <= 0:
                    seen = "\n".join(map(str, self.requests[-30:]))
                    raise AssertionError(f"it did not come to that in {within_s} s; the last requests:\n{seen}")
                self._changed.wait(min(left, 1.0))

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    # -- in the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._stop())
        self._loop.close()

    async def _start(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._tls, limit=0),
            auto_decompress=False,
            read_bufsize=1 << 20,
            skip_auto_headers=["Accept-Encoding"],
        )
        application = web.Application(client_max_size=1 << 24)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._serving)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _stop(self) -> None:
        await self._cut()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._session.close()
        await self._runner.cleanup()

    async def _cut(self) -> None:
        for request in list(self._connections.values()):
            if request.transport is not None:
                request.transport.abort()

    async def _handle(self, raw: web.Request) -> web.StreamResponse:
        self._connections[id(raw)] = raw
        try:
            return await self._answer(raw)
        except (ConnectionError, aiohttp.ClientError):
            # The caller has gone, or the API server: the other one is not told any other way either.
            return self._drop(raw)
        finally:
            del self._connections[id(raw)]

    async def _answer(self, raw: web.Request) -> web.StreamResponse:
        if self.away:
            return self._drop(raw)
        body = await raw.read()
        request = Request(raw.method, raw.path, dict(raw.query), json.loads(body) if body[:1] == b"{" else None)
        fault = self._fault(request)
        self.requests.append(request)
        try:
            if fault is None:
                return await self._forward(raw, body)
            if fault.begin is not None:
                fault.begin(request)
            if fault.delay_s:
                await asyncio.sleep(fault.delay_s)
            if fault.forward:
                await self._perform(raw, body)
            if fault.call is not None:
                fault.call(request)
            if fault.drop:
                return self._drop(raw)
            if fault.status is not None:
                return self._refuse(fault)
            if fault.silent or fault.gone:
                return await self._strange_watch(raw, fault)
            return await self._forward(raw, body)
        finally:
            with self._changed:
                self._changed.notify_all()

    def _fault(self, request: Request) -> Fault | None:
        for fault in self._faults:
            if (fault.times is None or fault.struck < fault.times) and fault.match(request):
                fault.struck += 1
                return fault
        return None

    async def _forward(self, raw: web.Request, body: bytes) -> web.StreamResponse:
        async with self._request(raw, body) as upstream:
            right = Request(raw.method, raw.path, dict(raw.query)).right
            if right is not None and upstream.status != 403:
                self.rights.add(right)
            answer = web.StreamResponse(status=upstream.status, headers=_kept(upstream.headers))
            await answer.prepare(raw)
            async for chunk in upstream.content.iter_any():
                await answer.write(chunk)
            await answer.write_eof()
            return answer

    async def _perform(self, raw: web.Request, body: bytes) -> None:
        async with self._request(raw, body) as upstream:
            await upstream.read()

    def _request(self, raw: web.Request, body: bytes) -> Any:
        timeout = aiohttp.ClientTimeout(total=None)
        return self._session.request(
            raw.method, self._upstream + raw.raw_path, data=body or None, headers=_kept(raw.headers), timeout=timeout
        )

    def _drop(self, raw: web.Request) -> web.StreamResponse:
        if raw.transport is not None:
            raw.transport.abort()
        return web.Response(status=500)

    def _refuse(self, fault: Fault) -> web.StreamResponse:
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": fault.status}
        status |= {"reason": fault.reason, "message": f"{fault.reason} by the fault proxy"}
        return web.json_response(status, status=fault.status or 500, headers=fault.headers)

    async def _strange_watch(self, raw: web.Request, fault: Fault) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "application/json"})
        await answer.prepare(raw)
        if fault.gone:
            status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
            await answer.write(json.dumps({"type": "ERROR", "object": status}).encode() + b"\n")
            await answer.write_eof()
            return answer
        while not (raw.transport is None or raw.transport.is_closing()) and fault in self._faults:
            await asyncio.sleep(0.1)
        return self._drop(raw)


def _kept(headers: Any) -> dict[str, str]:
    return {name: text for name, text in headers.items() if name.lower() not in _HOP}
