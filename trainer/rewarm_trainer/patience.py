"""How long a call to a store that stumbles is tried again: with jitter, under one deadline over all tries."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from rewarm_api.errors import ManifestError, Problem

VARIABLE = "REWARM_STORAGE_DEADLINE_SECONDS"
DEADLINE_SECONDS = 300.0
FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 20.0

logger = logging.getLogger("rewarm.storage")

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Patience:
    """`deadline`: seconds from the first try to the start of the last one."""

    deadline: float = DEADLINE_SECONDS
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    draw: Callable[[], float] = random.random

    @staticmethod
    def from_environment() -> Patience:
        """As `REWARM_STORAGE_DEADLINE_SECONDS` says, else 300 s. ManifestError (64) when that is no such number."""
        text = os.environ.get(VARIABLE)
        if not text:
            return Patience()
        try:
            deadline = float(text)
        except ValueError:
            deadline = -1.0
        if not 0 <= deadline < float("inf"):
            raise ManifestError(Problem(VARIABLE, text, "a number of seconds, 0 or more", "correct or unset it"))
        return Patience(deadline)

    def keep_trying(self, call: Callable[[], _Result], stumbles: Callable[[BaseException], bool], what: str) -> _Result:
        """What `call` gives. An error that `stumbles` does not take, or one at the deadline, is the caller's.

        `what`: named once in the log when it has to be tried again.
        """
        give_up = self.clock() + self.deadline
        ceiling = FIRST_WAIT_SECONDS
        while True:
            try:
                return call()
            except Exception as error:
                # Anywhere up to the ceiling: those who were thrown out together must not come back together.
                wait = self.draw() * ceiling
                if not stumbles(error) or self.clock() + wait > give_up:
                    raise
                if ceiling == FIRST_WAIT_SECONDS:
                    logger.warning(f"{what}: {error}; trying again for up to {self.deadline:g} s")
            self.sleep(wait)
            ceiling = min(2 * ceiling, LONGEST_WAIT_SECONDS)
