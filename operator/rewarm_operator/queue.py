"""Keys waiting for a visit: coalesced, one visit per key at a time, failures spaced by capped jittered backoff.

First come, first served, so a run that fails again and again never keeps the others waiting. Nothing is handed out
before `open` (the first sync, and leadership). Events come in bursts (a pod alone sends five): after a visit, those of
the next moment are one visit more.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

log = logging.getLogger("rewarm.queue")

K = TypeVar("K", bound=Hashable)

VISITS = 12
"""At once. More would only wait for the API server, and hold more memory."""
SPACING_SECONDS = 0.25
"""Between the end of a visit and the next one that an event asks for; what a visit wrote is looked at at once."""
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 60.0
_PROMPT_REPEATS = 2


class Again(Exception):
    """The visit has to be repeated, and not because of a mistake: at once, or when the API server said."""

    def __init__(self, why: str, after: float = 0.0) -> None:
        super().__init__(why)
        self.after = after


class Queue(Generic[K]):
    """`visit` gets a key and returns in how many seconds it wants it again in any case; None: only on a change."""

    def __init__(
        self,
        visit: Callable[[K], Awaitable[float | None]],
        visits: int = VISITS,
        spacing: float = SPACING_SECONDS,
    ) -> None:
        self._visit = visit
        self._limit, self._spacing = visits, spacing
        self._ended: OrderedDict[K, float] = OrderedDict()
        self._ready: deque[K] = deque()
        self._waiting: set[K] = set()
        self._visited: dict[K, asyncio.Task[None]] = {}
        self._again: set[K] = set()
        self._failures: dict[K, int] = {}
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._held: dict[K, float] = {}
        self._open = False

    @property
    def depth(self) -> int:
        """Keys that wait for a visit now; those that wait for their time are not among them."""
        return len(self._ready) + len(self._again)

    def open(self) -> None:
        """Hand keys out from now on."""
        self._open = True
        self._hand_out()

    async def close(self) -> None:
        """Hand no more keys out; return when the visits that run have come to their end."""
        self._open = False
        while self._visited:
            await asyncio.wait(list(self._visited.values()))

    def add(self, key: K) -> None:
        """The key wants a visit; not before the time until which the API server asked to be left alone."""
        now = asyncio.get_running_loop().time()
        if (held := self._held.pop(key, 0.0)) > now:
            self._held[key] = held
        elif key in self._visited:
            self._again.add(key)
        elif (moment := self._ended.get(key, 0.0) + self._spacing) > now:
            self.add_after(key, moment - now)
        else:
            self._enqueue(key)

    def add_after(self, key: K, seconds: float) -> None:
        """Add the key then, unless it is added earlier; of two times the earlier one counts."""
        loop = asyncio.get_running_loop()
        at = loop.time() + seconds
        timer = self._timers.get(key)
        if timer is None or timer.when() > at:
            self._cancel_timer(key)
            self._timers[key] = loop.call_at(at, self._due, key)

    def _enqueue(self, key: K) -> None:
        self._cancel_timer(key)
        if key not in self._waiting:
            self._waiting.add(key)
            self._ready.append(key)
            self._hand_out()

    def _hand_out(self) -> None:
        while self._open and self._ready and len(self._visited) < self._limit:
            key = self._ready.popleft()
            self._waiting.discard(key)
            self._visited[key] = asyncio.get_running_loop().create_task(self._visit_once(key), name=f"visit {key}")

    async def _visit_once(self, key: K) -> None:
        try:
            wait = await self._visit(key)
            self._failures.pop(key, None)
            failed = False
        except Exception as error:
            wait = self._after_failure(key, error)
            failed = True
        del self._visited[key]
        changed = key in self._again
        self._again.discard(key)
        # After a failure even what has changed meanwhile waits: most often it is what the failed visit itself wrote.
        if changed and not failed:
            self._enqueue(key)
        elif wait is not None:
            self.add_after(key, wait)
        self._remember_end(key)
        self._hand_out()

    def _remember_end(self, key: K) -> None:
        now = asyncio.get_running_loop().time()
        self._ended[key] = now
        self._ended.move_to_end(key)
        while self._ended and next(iter(self._ended.values())) + self._spacing < now:
            self._ended.popitem(last=False)

    def _after_failure(self, key: K, error: Exception) -> float:
        """Seconds until the next visit."""
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        wait = float(min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** min(failures - 1, 16)) * random.uniform(0.5, 1.0))
        if isinstance(error, Again) and not error.after and failures <= _PROMPT_REPEATS:
            return 0.0
        if isinstance(error, Again):
            if error.after:
                wait = max(error.after, wait)
                self._held[key] = asyncio.get_running_loop().time() + wait
            log.warning("%s: %s; again in %.1f s", key, _line(error), wait)
        else:
            log.error("%s: %s; again in %.1f s", key, _line(error), wait, exc_info=error)
        return wait

    def _due(self, key: K) -> None:
        self._timers.pop(key, None)
        self._held.pop(key, None)
        self._ended.pop(key, None)
        self.add(key)

    def _cancel_timer(self, key: K) -> None:
        if (timer := self._timers.pop(key, None)) is not None:
            timer.cancel()


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
