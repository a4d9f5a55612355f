"""The thread that carries points from the spool to a tracking server, so that training never waits for one.

Decides when to try again and what to do with a refusal; knows nothing about MLflow (see tracking.py for that). While
the server is away everything waits in the spool, for this attempt or the next.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from rewarm_trainer.spool import Batch, Point, Spool

_SEND_EVERY_SECONDS = 2.0
_LONGEST_WAIT_SECONDS = 30.0
_POINTS_PER_BATCH = 500  # MLflow takes 1000

logger = logging.getLogger("rewarm.tracking")


class Trouble(Enum):
    """What an error of a server means for the sender."""

    AWAY = "no answer: try again later"
    REFUSED = "understood and refused: the same again cannot help"
    LOST = "the run is not there (any more): find or make it again"


class Server(Protocol):
    """A tracking server. Every call may block for its own timeout and may raise anything."""

    name: str

    def open(self, remembered: str | None) -> str:
        """Find the run (by the id from last time, or by who it is), or make it; returns its id."""
        ...

    def send(self, run_id: str, points: Sequence[Point]) -> None: ...

    def is_open(self, run_id: str) -> bool:
        """Whether the run is there and takes points."""
        ...

    def holds(self, run_id: str, points: Sequence[Point]) -> bool:
        """Whether the run has all of these points, which are of one metric."""
        ...

    def terminate(self, run_id: str, status: str) -> None: ...

    def trouble(self, error: Exception) -> Trouble: ...


@dataclass
class Errand:
    """Something else to do at the server. `retry`: go on trying while the server is away and somebody waits."""

    call: Callable[[str], Any]
    what: str
    retry: bool
    result: Any = None
    done: threading.Event = field(default_factory=threading.Event)
    given_up: bool = False


@dataclass(frozen=True)
class Finished:
    """How tracking ended. delivered: everything arrived. pending: points still in the spool. message: one line."""

    delivered: bool
    pending: int
    message: str


class Courier:
    """One background thread between one spool and one server."""

    def __init__(self, server: Server, spool: Spool, hold_seconds: float = 0.0) -> None:
        """`hold_seconds`: how long at most the thread waits for `begin` before it does anything at all."""
        self.spool = spool
        self.problem: str | None = None
        self._server = server
        self._opened = False
        self._in_doubt = True
        self._errands: deque[Errand] = deque()
        self._urgent = threading.Event()
        self._hold_seconds, self._begun = hold_seconds, threading.Event()
        self._abandoned = threading.Event()
        self._terminal: str | None = None
        self._finished: Finished | None = None
        self._thread = threading.Thread(target=self._work, name="rewarm-tracking", daemon=True)
        self._thread.start()

    def begin(self) -> None:
        """Let the thread start its work now."""
        self._begun.set()

    def submit(self, call: Callable[[str], Any], what: str, *, retry: bool = True) -> Errand:
        """Have `call(run id)` done on the thread; `what` says in a warning what has not happened."""
        errand = Errand(call, what, retry)
        self._errands.append(errand)
        self._begun.set()
        self._urgent.set()
        return errand

    def wait(self, errand: Errand, deadline_seconds: float) -> Any:
        """The errand's result; None when it was refused or not done in time."""
        if not errand.done.wait(deadline_seconds):
            errand.given_up = True  # a late success would contradict what the report says by then
            reason = self.problem or "still sending"
            logger.warning(
                f"tracking: {errand.what}: {self._server.name} gave no answer in {deadline_seconds:g} s ({reason})"
            )
        return errand.result

    def finish(self, status: str, deadline_seconds: float) -> Finished:
        """Deliver what waits, set the terminal status and end the thread, all within the deadline."""
        if self._finished is None:
            with suppress(OSError):
                self.spool.sync()
            self._terminal, self._in_doubt = status, True
            self._begun.set()
            self._urgent.set()
            self._thread.join(deadline_seconds)
            self._finished = self._ended(deadline_seconds)
        return self._finished

    def _ended(self, deadline_seconds: float) -> Finished:
        if not self._thread.is_alive():
            self.spool.close()
            return Finished(True, 0, f"everything arrived at {self._server.name}")
        self._abandoned.set()
        self._urgent.set()
        pending = self.spool.pending
        message = (
            f"{self._server.name} did not take everything in {deadline_seconds:g} s "
            f"({self.problem or 'still sending'}); {pending} points wait in the work folder, "
            "and the same command delivers them"
        )
        logger.info(f"tracking: {message}")
        return Finished(False, pending, message)

    # Everything below runs on the thread.

    def _work(self) -> None:
        self._begun.wait(self._hold_seconds)
        delay = 0.0
        while not self._abandoned.is_set():
            try:
                if self._round():
                    return
            except Exception as error:  # whatever a client library raises, training goes on
                delay = min(max(1.0, 2 * delay), _LONGEST_WAIT_SECONDS)
                self._stumble(error)
            else:
                delay = 0.0
                self._recover()
            wait = delay or _SEND_EVERY_SECONDS
            self._urgent.wait(min(wait, 1.0) if self._terminal else wait)
            self._urgent.clear()

    def _round(self) -> bool:
        """Send everything that is here; True when the run has its terminal status and nothing is left to do."""
        if not self._opened:
            self.spool.belongs_to(self._server.open(self.spool.run_id))
            self._opened = True
        run_id = self.spool.run_id
        assert run_id is not None
        if self._in_doubt:
            self._look_back(run_id)
        self._drain(run_id)
        self._run_errands(run_id)
        if self._terminal is None or self._errands or not self.spool.empty:
            return False
        self._server.terminate(run_id, self._terminal)
        return True

    def _look_back(self, run_id: str) -> None:
        """A server that was away may be back with an older database: what it acknowledged since is sent again."""
        self._in_doubt = False
        delivered = self.spool.delivered()
        if delivered and not self._server.holds(run_id, delivered):
            logger.info(f"tracking: {self._server.name} has lost points that it had; all of them are sent again")
            self.spool.acknowledge(0)

    def _drain(self, run_id: str) -> None:
        if not self.spool.empty:
            self.spool.sync()
        while not self.spool.drained and not self._abandoned.is_set():
            batch = self.spool.read(_POINTS_PER_BATCH)
            try:
                self._server.send(run_id, batch.points)
            except Exception as error:
                if self._server.trouble(error) is not Trouble.REFUSED:
                    raise
                if not self._server.is_open(run_id):
                    self._opened = False
                    raise
                self._send_one_by_one(run_id, batch)
            self.spool.acknowledge(batch.end)
            if self.spool.drained:
                self._recover()  # now, not after the errands: who waits for one must not find a problem that is over

    def _send_one_by_one(self, run_id: str, batch: Batch) -> None:
        """One point that the server refuses must not hold back the others."""
        for point in batch.points:
            try:
                self._server.send(run_id, (point,))
            except Exception as error:
                if self._server.trouble(error) is not Trouble.REFUSED:
                    raise
                logger.warning(f"tracking: {point.name} at {point.step} tokens is refused: {in_one_line(error)}")

    def _run_errands(self, run_id: str) -> None:
        while self._errands and not self._abandoned.is_set():
            errand = self._errands[0]
            if not errand.given_up:
                try:
                    errand.result = errand.call(run_id)
                except Exception as error:
                    if errand.retry and self._server.trouble(error) is Trouble.AWAY:
                        raise
                    logger.warning(f"tracking: {errand.what}: {in_one_line(error)}")
            self._errands.popleft()
            errand.done.set()

    def _stumble(self, error: Exception) -> None:
        self._in_doubt = True
        if self._server.trouble(error) is Trouble.LOST:
            self._opened = False
        if self.problem is None:  # the caller tells people, it can ask for `problem`
            logger.info(f"tracking: {self._server.name}: {in_one_line(error)}; points wait on disk, training goes on")
        self.problem = in_one_line(error)

    def _recover(self) -> None:
        if self.problem is not None:
            logger.info(f"tracking: {self._server.name} is back, everything arrived")
        self.problem = None


def in_one_line(error: Exception) -> str:
    """What went wrong, for people."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:300]}" if text else type(error).__name__
