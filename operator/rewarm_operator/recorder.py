"""Events on runs and studies: posted in the background, repeats counted on one, never a reason to wait or to fail.

The same reason and message within ten minutes become one Event with a count. When more is told than the API server
takes, the newest is dropped and counted: an Event is a courtesy, the status is the truth.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rewarm_operator.actions import Emit
from rewarm_operator.cluster import ApiError, Cluster, NotLeading
from rewarm_operator.resources import EVENT, PARENTS, RUN
from rewarm_operator.server_time import SERVER

log = logging.getLogger("rewarm.events")

Json = dict[str, Any]

SAME_SECONDS = 600.0
_WAITING = 2000
_REMEMBERED = 4096
_WRITERS = 4
_TRIES = 4
_LONGEST_MESSAGE = 1024


@dataclass
class _Posted:
    """An Event that is there, and since when by this machine's clock."""

    name: str
    count: int
    when: float


@dataclass(frozen=True)
class _Told:
    namespace: str
    run: Json
    event: Emit
    when: datetime

    @property
    def identity(self) -> tuple[str, str, str, str]:
        return self.run["uid"], self.event.type, self.event.reason, self.event.message


class EventRecorder:
    """`emit` from anywhere in the event loop; `run` writes."""

    def __init__(self, cluster: Cluster, identity: str) -> None:
        self._cluster, self._identity = cluster, identity
        self._queue: asyncio.Queue[_Told] = asyncio.Queue(_WAITING)
        self._posted: OrderedDict[tuple[str, str, str, str], _Posted] = OrderedDict()
        self._number = random.getrandbits(40)
        self.dropped = 0

    def emit(self, run: Json, event: Emit) -> None:
        metadata, kind = run["metadata"], PARENTS[run.get("kind", RUN.kind)]
        reference = {
            "apiVersion": kind.version,
            "kind": kind.kind,
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
        }
        try:
            self._queue.put_nowait(_Told(metadata["namespace"], reference, event, SERVER.now()))
        except asyncio.QueueFull:
            self.dropped += 1

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(_WRITERS):
                group.create_task(self._write(), name=f"event writer {number}")

    async def drain(self, seconds: float) -> None:
        """Give what waits a little time to leave, before the end."""
        try:
            await asyncio.wait_for(self._queue.join(), seconds)
        except TimeoutError:
            log.warning("%d events were not written before the end", self._queue.qsize())

    async def _write(self) -> None:
        while True:
            told = await self._queue.get()
            try:
                await self._post(told)
            finally:
                self._queue.task_done()

    async def _post(self, told: _Told) -> None:
        for attempt in range(1, _TRIES + 1):
            try:
                await self._post_once(told)
                return
            except NotLeading:
                return
            except ApiError as error:
                if attempt == _TRIES or (error.status < 500 and error.status != 429):
                    log.warning("event %s of %s is not written: %s", told.event.reason, told.run["name"], error)
                    return
                await asyncio.sleep(error.retry_after or 0.5 * 2**attempt * random.uniform(0.5, 1.0))

    async def _post_once(self, told: _Told) -> None:
        known = self._posted.get(told.identity)
        when = told.when.isoformat(timespec="seconds").replace("+00:00", "Z")
        if known is not None and time.monotonic() - known.when < SAME_SECONDS:
            known.count += 1
            try:
                await self._cluster.patch(
                    EVENT, told.namespace, known.name, {"count": known.count, "lastTimestamp": when}
                )
                return
            except ApiError as error:
                if error.status != 404:
                    raise
        name = self._new_name(told)
        await self._cluster.create(EVENT, told.namespace, self._body(told, name, when))
        self._posted[told.identity] = _Posted(name, 1, time.monotonic())
        self._posted.move_to_end(told.identity)
        if len(self._posted) > _REMEMBERED:
            self._posted.popitem(last=False)

    def _new_name(self, told: _Told) -> str:
        self._number += 1
        return f"{told.run['name']}.{self._number:x}"

    def _body(self, told: _Told, name: str, when: str) -> Json:
        return {
            "apiVersion": EVENT.version,
            "kind": EVENT.kind,
            "metadata": {"name": name, "namespace": told.namespace},
            "involvedObject": told.run,
            "type": told.event.type,
            "reason": told.event.reason,
            "message": told.event.message[:_LONGEST_MESSAGE],
            "source": {"component": "rewarm-operator"},
            "reportingComponent": "rewarm-operator",
            "reportingInstance": self._identity[:128],
            "firstTimestamp": when,
            "lastTimestamp": when,
            "count": 1,
        }
