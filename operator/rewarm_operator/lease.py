"""Exactly one active operator, by a Lease: who may write, from when, and until when for certain.

Only this machine's own clock is used: another holder is dead when its record has not changed for the time that the
record itself promises, measured here. The wall-clock times in it are for people, so clocks may differ by minutes.

A holder that cannot renew stops writing at two thirds of the promised time and ends the process, so that it has ended
before anybody else may begin. A thread watches that too, because a blocked event loop renews nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from rewarm_operator.cluster import ApiError, Cluster
from rewarm_operator.resources import LEASE

log = logging.getLogger("rewarm.lease")

Json = dict[str, Any]

LOST_EXIT_CODE = 75
_RENEWALS = 7
"""How often a Lease is renewed in its own time."""


def clock() -> float:
    """Seconds that never jump, and that go on while the machine sleeps where the system can tell."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _die(code: int) -> None:
    logging.shutdown()
    os._exit(code)


class LeaderLease:
    """Take it with `acquire`, keep it with `keep`, give it back with `release`."""

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        name: str,
        identity: str,
        seconds: int,
        *,
        die: Callable[[int], None] = _die,
    ) -> None:
        self.identity = identity
        self._cluster, self._namespace, self._name = cluster, namespace, name
        self._seconds = seconds
        self._deadline = seconds * 2 / 3
        self._period = seconds / _RENEWALS
        self._die = die
        self._renewed: float | None = None
        self._record: Json | None = None
        self._seen: tuple[str, float] = ("", 0.0)

    def holds(self) -> bool:
        """Whether this process may write at this moment."""
        return self._renewed is not None and clock() - self._renewed < self._deadline

    @property
    def holder(self) -> str:
        """Who was seen to hold it last."""
        return str((self._record or {}).get("spec", {}).get("holderIdentity") or "")

    async def acquire(self) -> None:
        """Return once this process is the active operator."""
        told = ""
        while not await self._try():
            if self.holder and self.holder != told:
                told = self.holder
                log.info("standing by: %s is the active operator", told)
            await asyncio.sleep(self._period * random.uniform(0.8, 1.2))
        threading.Thread(target=self._watch, name="lease watchdog", daemon=True).start()
        log.info("this is the active operator (%s)", self.identity)

    async def keep(self) -> None:
        """Renew for ever. Does not return: when the Lease cannot be kept, the process ends."""
        while True:
            await asyncio.sleep(self._period)
            if not await self._try() and self._taken():
                self._lose(f"{self.holder} has taken the Lease")

    async def release(self) -> None:
        """Let the next one begin at once; from here on nothing may be written."""
        held, self._renewed = self._renewed is not None, None
        if not held or self._record is None:
            return
        record = self._written("", 1)
        try:
            await asyncio.wait_for(
                self._cluster.replace(LEASE, self._namespace, self._name, record), timeout=self._deadline / 2
            )
        except (ApiError, TimeoutError) as error:
            log.warning("the Lease is not released, it will run out: %s", error)

    async def _try(self) -> bool:
        """One attempt to take or renew it; False when it is not ours after it, or nobody knows."""
        began = clock()
        try:
            async with asyncio.timeout(max(1.0, self._deadline / 2)):
                record = await self._read()
                if record is None:
                    body = self._written(self.identity, self._seconds)
                    self._record = await self._cluster.create(LEASE, self._namespace, body)
                elif self._free(record):
                    body = self._written(self.identity, self._seconds)
                    self._record = await self._cluster.replace(LEASE, self._namespace, self._name, body)
                else:
                    return False
        except (ApiError, TimeoutError) as error:
            log.warning("the Lease %s/%s: %s", self._namespace, self._name, str(error) or "no answer in time")
            return False
        # The time of asking counts, not that of the answer: the record was written somewhere in between.
        self._renewed = began
        return True

    async def _read(self) -> Json | None:
        try:
            record = await self._cluster.get(LEASE, self._namespace, self._name)
        except ApiError as error:
            if error.status != 404:
                raise
            self._record = None
            return None
        version = record["metadata"]["resourceVersion"]
        if version != self._seen[0]:
            self._seen = (version, clock())
        self._record = record
        return record

    def _free(self, record: Json) -> bool:
        """Whether the record is ours, nobody's, or has not been renewed for as long as it promises."""
        spec = record.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        promised = float(spec.get("leaseDurationSeconds") or self._seconds)
        return holder in ("", self.identity) or clock() - self._seen[1] > promised

    def _taken(self) -> bool:
        return self._record is not None and self.holder not in ("", self.identity)

    def _written(self, holder: str, seconds: int) -> Json:
        """The record as it is to be, on top of the version that was read: a race is lost by a conflict."""
        record = self._record or {
            "apiVersion": LEASE.version,
            "kind": LEASE.kind,
            "metadata": {"name": self._name, "namespace": self._namespace},
        }
        old = record.get("spec") or {}
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        changed = old.get("holderIdentity") != holder
        spec = {
            "holderIdentity": holder,
            "leaseDurationSeconds": seconds,
            "acquireTime": now if changed else old.get("acquireTime", now),
            "renewTime": now,
            "leaseTransitions": int(old.get("leaseTransitions") or 0) + (changed and bool(holder)),
        }
        return {**record, "spec": spec}

    def _watch(self) -> None:
        """In a thread of its own: end the process once the Lease was not renewed in time."""
        while (renewed := self._renewed) is not None:
            left = self._deadline - (clock() - renewed)
            if left <= 0:
                self._lose(f"it was not renewed for {self._deadline:.0f} s")
                return
            time.sleep(min(left, 1.0))

    def _lose(self, why: str) -> None:
        self._renewed = None
        log.error("the Lease is lost: %s; this process ends, another one goes on", why)
        self._die(LOST_EXIT_CODE)
