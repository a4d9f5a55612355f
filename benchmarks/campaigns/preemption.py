"""Campaign `preemption`: SIGTERM in every situation, to one rank or all. Committed in time, or the last commit stands.

Situations are exact: the process freezes at a fault point, gets its signals, and goes on.
"""

from __future__ import annotations

import json
import re
import signal
from dataclasses import dataclass
from pathlib import Path

from rewarm_world import World

from campaigns.tally import Tally
from campaigns.world import (
    STEP_TOKENS,
    Ended,
    Twin,
    await_frozen,
    broken,
    committed,
    compare,
    end_of,
    forget_run,
    prepared,
    reap,
    start_ranks,
    undisturbed,
)
from rewarm_bench.warm import WarmProcess

MANIFEST = {"checkpoints__every": "10%", "evaluation__every": "25%"}
GRACE_SECONDS = 300.0
"""As a pod's default terminationGracePeriodSeconds."""


@dataclass(frozen=True)
class Situation:
    """Rank 0 freezes at `point`; then `signals` go to `ranks`. commits: whether a new commit is expected."""

    name: str
    point: str
    signals: tuple[signal.Signals, ...] = (signal.SIGTERM,)
    processes: int = 1
    ranks: tuple[int, ...] = (0,)
    code: int = 143
    commits: bool = True


TWICE = (signal.SIGTERM, signal.SIGTERM)
SITUATIONS = (
    Situation("before the first step", "claim.before:1", commits=False),
    Situation("after the claim", "claim.after:1", commits=False),
    Situation("in an evaluation", "look.begin:4"),
    Situation("while files are staged", "stage.file:2"),
    Situation("while files are uploaded", "commit.file:3"),
    Situation("between manifest and marker", "commit.manifest:2"),
    Situation("while old ones are pruned", "prune.begin:3"),
    Situation("twice, in an evaluation", "look.begin:5", TWICE),
    Situation("twice, while files are uploaded", "commit.file:12", TWICE),
    Situation("and killed before it could commit", "look.begin:4", (signal.SIGKILL,), code=-9, commits=False),
    Situation("of 2 processes, to both", "look.begin:4", processes=2, ranks=(0, 1)),
    Situation("of 2 processes, to rank 0", "commit.file:3", processes=2, ranks=(0,)),
    Situation("of 2 processes, to rank 1", "look.begin:5", processes=2, ranks=(1,)),
)


def last_step(said: str) -> int:
    """The last update that a process said it made: what only a bystander knows."""
    return max((int(number) for number in re.findall(r"^step (\d+)/", said, re.MULTILINE)), default=0)


def strike(world: World, manifest: Path, folder: Path, case: Situation) -> tuple[Ended, list[str]]:
    """Freeze, signal, go on, end."""
    fault = f"{case.point}:STOP"
    if case.processes > 1:
        prepared(world, manifest, folder)
        ranks = start_ranks(world, folder, case.processes, {0: fault})
    else:
        ranks = [world.fork("run", manifest, "--workdir", folder, REWARM_FAULT_POINT=fault)]
    if not await_frozen(ranks[0]):
        return end_of(ranks[0], 1), [f"never came to {case.point}"]
    for number in case.signals:
        for rank in case.ranks:
            ranks[rank].send_signal(number)
    for rank in ranks:
        rank.send_signal(signal.SIGCONT)
    ended = end_of(ranks[0], GRACE_SECONDS)
    problems = [] if ended.code == case.code else [f"ended with {ended.code}, expected {case.code}"]
    problems += others(ranks[1:], case)
    return ended, problems


def others(ranks: list[WarmProcess], case: Situation) -> list[str]:
    """Every rank stops at the same step, whoever was asked."""
    ends = [rank.wait(60) for rank in ranks]
    reap(ranks)
    return [f"another rank ended with {code}, expected {case.code}" for code in ends if code != case.code]


def one(world: World, manifest: Path, twin: Twin, case: Situation, tally: Tally, number: int) -> None:
    """Stop a run in one situation, look at what stands, and go on to the end."""
    folder = world.root / f"stopped-{number}"
    ended, problems = strike(world, manifest, folder, case)
    made, kept = last_step(ended.said), (committed(folder)[-1:] or [0])[0]
    if case.commits and kept < made:
        problems.append(f"{made} steps were made, the last commit is of {kept}")
    if reasons := broken(folder):
        tally.checkpoints_lost += len(reasons)
        problems += reasons
    if case.processes > 1:
        again = start_ranks(world, folder, case.processes)
        code = end_of(again[0]).code
        reap(again[1:])
    else:
        code = end_of(world.fork("run", manifest, "--workdir", folder)).code
    if code:
        problems.append(f"started again it ended with {code}")
    else:
        found = compare(folder, twin)
        tally.tokens_doubled += found.doubled
        problems += found.problems + recomputed(folder, (made - kept) * STEP_TOKENS)
    tally.struck(case.name, problems)
    if not problems:
        forget_run(folder)


def recomputed(folder: Path, truth: int) -> list[str]:
    """The report's tokens trained again, against what a bystander counted."""
    attempts = json.loads((folder / "report.json").read_text())["attempts"]
    said = sum(attempt["tokens_recomputed"] for attempt in attempts)
    return [] if said == max(0, truth) else [f"the report says {said} tokens were trained again, it was {truth}"]


def campaign(world: World, *, count: int = len(SITUATIONS)) -> Tally:
    """The first `count` situations."""
    tally = Tally("preemption")
    twins: dict[int, tuple[Path, Twin]] = {}
    for number, case in enumerate(SITUATIONS[:count]):
        if case.processes not in twins:
            manifest = world.manifest(f"preempted-{case.processes}", **MANIFEST)
            twin = undisturbed(world, manifest, f"calm-{case.processes}", case.processes)
            twins[case.processes] = (manifest, twin)
        one(world, *twins[case.processes], case, tally, number)
    tally.notes.append("Every stop was committed within the grace period, or the commit before it stood; the tokens "
                       "trained again are those that a bystander counted")  # fmt: skip
    return tally
