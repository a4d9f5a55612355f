"""A proxy before an S3 server that does what networks and stores do on a bad day. It runs in a thread of its own.

Requests pass unchanged (the signature covers the host, so that is kept too). A fault is data: which requests, what
happens, how often.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

KINDS = ("500", "503 SlowDown", "no answer", "answer lost", "half a body", "slow bytes", "timeout")
"""Faults after which the same request succeeds. `half a body`: of the answer, or of what was sent."""
EXPIRED = "expired credentials"
_XML = "<?xml version='1.0'?><Error><Code>{code}</Code><Message>by the campaign</Message></Error>"
_ANSWERS = {"500": (500, "InternalError"), "503 SlowDown": (503, "SlowDown"), EXPIRED: (400, "ExpiredToken")}
_HOP = ("connection", "keep-alive", "transfer-encoding")
_SLOW_PIECES = 8
_SLOW_SECONDS = 0.02


@dataclass
class Fault:
    """`kind` happens to matching requests (method, path with query), `times` times; None: until removed."""

    kind: str
    match: Callable[[str, str], bool] = lambda method, path: True
    times: int | None = 1
    struck: int = 0


class S3Proxy:
    """A context manager; `url` is what clients are told. `hold_s`: how long a timeout says nothing."""

    def __init__(self, upstream: str, hold_s: float = 30.0) -> None:
        self._upstream, self._hold = upstream, hold_s
        self._faults: list[Fault] = []
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="s3 proxy", daemon=True)
        self.requests: list[str] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def add(self, fault: Fault) -> Fault:
        self._faults.append(fault)
        return fault

    def clear(self) -> None:
        self._faults = []
        self.requests = []

    def __enter__(self) -> S3Proxy:
        self._thread.start()
        if not self._ready.wait(30):
            raise RuntimeError("the proxy did not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._stop())
        self._loop.close()

    async def _start(self) -> None:
        own = ["User-Agent", "Accept-Encoding", "Content-Type"]
        self._session = aiohttp.ClientSession(auto_decompress=False, skip_auto_headers=own)
        application = web.Application(client_max_size=1 << 30)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]

    async def _stop(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._session.close()
        await self._runner.cleanup()

    async def _handle(self, raw: web.Request) -> web.StreamResponse:
        try:
            return await self._answer(raw)
        except (ConnectionError, aiohttp.ClientError):
            return _drop(raw)

    def _fault(self, raw: web.Request) -> Fault | None:
        self.requests.append(f"{raw.method} {raw.raw_path}")
        for fault in self._faults:
            if (fault.times is None or fault.struck < fault.times) and fault.match(raw.method, raw.raw_path):
                fault.struck += 1
                return fault
        return None

    async def _answer(self, raw: web.Request) -> web.StreamResponse:
        fault = self._fault(raw)
        kind = fault.kind if fault else ""
        if kind == "no answer" or (kind == "half a body" and raw.method == "PUT"):
            # Some of the body has been read, none of it was passed on.
            return _drop(raw)
        body = await raw.read()
        if kind in _ANSWERS:
            status, code = _ANSWERS[kind]
            return web.Response(status=status, text=_XML.format(code=code), content_type="application/xml")
        if kind == "timeout":
            await asyncio.sleep(self._hold)
            return _drop(raw)
        answer, content = await self._forward(raw, body)
        if kind == "answer lost":
            return _drop(raw)
        await answer.prepare(raw)
        if kind == "half a body":
            await answer.write(content[: len(content) // 2])
            return _drop(raw)
        size = max(1, len(content) // _SLOW_PIECES) if kind == "slow bytes" else max(1, len(content))
        for start in range(0, len(content), size):
            if kind == "slow bytes":
                await asyncio.sleep(_SLOW_SECONDS)
            await answer.write(content[start : start + size])
        await answer.write_eof()
        return answer

    async def _forward(self, raw: web.Request, body: bytes) -> tuple[web.StreamResponse, bytes]:
        from yarl import URL

        url = URL(self._upstream + raw.raw_path, encoded=True)
        headers = _kept(raw.headers)
        async with self._session.request(raw.method, url, data=body or None, headers=headers) as upstream:
            content = await upstream.read()
            return web.StreamResponse(status=upstream.status, headers=_kept(upstream.headers)), content


def _kept(headers: Any) -> CIMultiDict[str]:
    return CIMultiDict((name, text) for name, text in headers.items() if name.lower() not in _HOP)


def _drop(raw: web.Request) -> web.StreamResponse:
    if raw.transport is not None:
        raw.transport.abort()
    return web.Response(status=500)
