"""One visit to one run or study: observe, decide, do. The only place where the three meet."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import datetime
from typing import Generic, TypeVar

from rewarm_operator.actions import Decision
from rewarm_operator.cluster import NotLeading
from rewarm_operator.executor import Executor
from rewarm_operator.queue import Again
from rewarm_operator.server_time import SERVER
from rewarm_operator.settings import Settings
from rewarm_operator.store import Key

log = logging.getLogger("rewarm.visitor")

Seen = TypeVar("Seen")


class Visitor(Generic[Seen]):
    """What the queue calls. `took` gets (result, seconds) of every visit: done, unchanged, again, gone or error."""

    def __init__(
        self,
        observe: Callable[[Key, datetime], Seen | None],
        executor: Executor,
        settings: Settings,
        decide: Callable[[Seen, Settings], Decision],
        took: Callable[[str, float], None],
    ) -> None:
        self._observe, self._executor, self._settings = observe, executor, settings
        self._decide, self._took = decide, took

    async def visit(self, key: Key) -> float | None:
        """Seconds until the run (or study) wants a look although nothing changed; None: only on a change."""
        began, result = time.perf_counter(), "error"
        try:
            await self._executor.refresh(key)
            observed = self._observe(key, SERVER.now())
            if observed is None:
                result = "gone"
                return None
            decision = self._decide(observed, self._settings)
            if decision.actions:
                log.debug("%s/%s: %s", *key, ", ".join(type(action).__name__ for action in decision.actions))
            await self._executor.execute(key, decision.actions)
            result = "done" if decision.actions else "unchanged"
            return decision.requeue_after
        except NotLeading:
            # Another process is the one that acts; should this one lead again, it looks at every run afresh.
            result = "not-leading"
            return None
        except Again:
            result = "again"
            raise
        finally:
            self._took(result, time.perf_counter() - began)
