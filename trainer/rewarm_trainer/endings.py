"""How the processes of a pod ended, and which of them is the cause. Small files, written by each process as it ends.

A process that sees a broken collective because another one died is a victim: it must not hide the cause.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rewarm_api.errors import RewarmError

INTERNAL = 70
STOPPED = 143
CAUSES = {error.exit_code: error.cause for error in RewarmError.__subclasses__() if error.exit_code != INTERNAL}


@dataclass(frozen=True)
class Ending:
    """`code`: exit code. `victim`: ended because another process did. `time`: Unix seconds. `who`: rank, or agent."""

    who: str
    code: int
    message: str = ""
    victim: bool = False
    time: float = 0.0

    @property
    def outcome(self) -> str:
        return "Succeeded" if self.code == 0 else CAUSES.get(self.code, "Unknown")


def write_ending(folder: Path, ending: Ending) -> None:
    """Never fails: an ending that cannot be written is one that is not known."""
    value = {**asdict(ending), "time": ending.time or time.time()}
    target = folder / f"end-{ending.who}.json"
    temporary = folder / f".end-{ending.who}.{os.getpid()}"
    try:
        temporary.write_text(json.dumps(value))
        os.replace(temporary, target)
    except OSError:
        return


def read_endings(folder: Path) -> list[Ending]:
    """Every ending so far, the earliest first."""
    endings = [Ending(**json.loads(path.read_text())) for path in folder.glob("end-*.json")]
    return sorted(endings, key=lambda ending: (ending.time, ending.who))


def of_status(code: int, who: str) -> Ending:
    """The ending of a process that left no word: by its return code (negative: the signal that killed it)."""
    if code >= 0:
        return Ending(who, code)
    name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
    return Ending(who, 128 - code, f"{who} was killed by {name}; with SIGKILL mostly for want of memory")


def cause_of(endings: Sequence[Ending], status: int) -> Ending:
    """The one that the pod answers for. `status`: how the agent that started the processes ended (as of_status).

    An own failure goes before being stopped or losing a peer; among equals the earliest counts.
    """
    failed = sorted((ending for ending in endings if ending.code != 0), key=lambda ending: ending.time)
    own = [ending for ending in failed if not ending.victim and ending.code != STOPPED]
    if own:
        return own[0]
    if failed:
        return failed[0]
    if status == 0:
        return Ending("pod", 0)
    if status > 0:
        return Ending("pod", INTERNAL, f"the training processes ended with {status} and left no word; see the log")
    return of_status(status, "agent")
