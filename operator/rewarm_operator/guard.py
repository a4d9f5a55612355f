"""What keeps one sender from taking the progress server away from the others: shares of connections and of reviews.

Every pod that reaches the port may open connections and send tokens that are none; both are counted by its address.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Any

from aiohttp import web

CONNECTIONS_OF_ONE = 32
"""At once, of one address. A trainer opens one for each report."""
CONNECTIONS = 2048
"""At once, of all."""
IDLE_SECONDS = 15.0
"""A connection that has not sent the head of a request by then is closed."""
HANDSHAKE_SECONDS = 10.0
_SKEW_SECONDS = 600.0
"""By how much this clock may be ahead of the API server's."""
_REMEMBERED = 8192


@dataclass
class _Left:
    amount: float
    when: float


class Allowance:
    """So many at once, one each so many seconds after that, for each of many keys."""

    def __init__(self, burst: float, per_second: float) -> None:
        self._burst, self._per_second = burst, per_second
        self._known: OrderedDict[str, _Left] = OrderedDict()

    def left(self, key: str) -> float:
        """How many are allowed now."""
        return self._refilled(key).amount

    def take(self, key: str) -> bool:
        """Take one, if one is left."""
        known = self._refilled(key)
        allowed = known.amount >= 1.0
        if allowed:
            known.amount -= 1.0
        self._known[key] = known
        self._known.move_to_end(key)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return allowed

    def _refilled(self, key: str) -> _Left:
        now = time.monotonic()
        known = self._known.get(key) or _Left(self._burst, now)
        amount = min(self._burst, known.amount + (now - known.when) * self._per_second)
        return _Left(amount, now)


def unverified_claims(token: str) -> dict[str, Any]:
    """What a token says of itself; empty for what is no token. Good for turning it away, never for believing it."""
    try:
        _, body, _ = token.split(".")
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except (ValueError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


def is_hopeless(claims: dict[str, Any], audience: str, now: float) -> bool:
    """Whether no API server would take a token with these claims for this audience: not worth asking it."""
    audiences = claims.get("aud")
    expires = claims.get("exp")
    known = audience in audiences if isinstance(audiences, list) else audience == audiences
    return not known or not isinstance(expires, (int, float)) or expires < now - _SKEW_SECONDS


def claimed_pod(claims: dict[str, Any]) -> str:
    """Uid of the pod that a token says it is bound to."""
    place: Any = claims
    for step in ("kubernetes.io", "pod", "uid"):
        place = place.get(step) if isinstance(place, dict) else None
    return place if isinstance(place, str) else ""


class _Connection(web.RequestHandler):
    """One connection, counted by the address of its other end."""

    __slots__ = ("_counts", "_peer")

    def __init__(self, *given: Any, counts: Counter[str], **settings: Any) -> None:
        super().__init__(*given, **settings)
        self._counts, self._peer = counts, ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        self._peer = str(peer[0]) if peer else "?"
        self._counts[self._peer] += 1
        if self._counts[self._peer] > CONNECTIONS_OF_ONE or self._counts.total() > CONNECTIONS:
            assert isinstance(transport, asyncio.Transport)
            transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._counts[self._peer] -= 1
        self._counts += Counter()  # forgets who has none left
        super().connection_lost(exc)


class GuardedSite(web.BaseSite):
    """Listens as `web.TCPSite`, and closes what is too much."""

    def __init__(self, runner: web.AppRunner, host: str | None, port: int, tls: ssl.SSLContext | None) -> None:
        super().__init__(runner, ssl_context=tls)
        self._host, self._port = host, port
        self._counts: Counter[str] = Counter()

    @property
    def name(self) -> str:
        return f"https://{self._host or '0.0.0.0'}:{self._port}"

    async def start(self) -> None:
        await super().start()
        loop, server = asyncio.get_running_loop(), self._runner.server
        assert server is not None

        def connection() -> _Connection:
            # A body is read as it comes: what is small packed may be large unpacked.
            return _Connection(
                server,
                counts=self._counts,
                loop=loop,
                access_log=None,
                keepalive_timeout=IDLE_SECONDS,
                auto_decompress=False,
            )

        self._server = await loop.create_server(
            connection,
            self._host,
            self._port,
            ssl=self._ssl_context,
            ssl_handshake_timeout=HANDSHAKE_SECONDS if self._ssl_context else None,
            backlog=self._backlog,
        )
