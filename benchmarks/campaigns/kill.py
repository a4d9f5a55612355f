"""Campaign `kill`: `kill -9` at moments uniform in time and at every point of the commit protocol; 1 and 2 processes.

Many kills share one run: kill, resume, kill, resume, to the end, which must be that of a run nobody touched. After each
kill every committed checkpoint must be whole, and the next start must begin from the newest of them.
"""

from __future__ import annotations

import itertools
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rewarm_world import World

from campaigns.tally import Tally
from campaigns.world import (
    STEP_TOKENS,
    Ended,
    Twin,
    broken,
    committed,
    compare,
    end_of,
    events_of,
    forget_run,
    prepared,
    reap,
    start_ranks,
    undisturbed,
)
from rewarm_trainer.faults import POINTS

MANIFEST = {"checkpoints__every": "5%", "checkpoints__keep": 2}
"""A commit every second step, and pruning soon: most of a run's time is spent in the protocol."""
VISITS = {"write.beside": (1, 3, 6, 9), "commit.file": (1, 3, 5, 8, 12), "stage.file": (1, 2, 3)}


@dataclass(frozen=True)
class Kill:
    """One kill to come: at a fault point (`name:visit`), or after a share of an attempt's usual time. `rank`: whose."""

    point: str = ""
    share: float = 0.0
    rank: int = 0

    @property
    def kind(self) -> str:
        return self.point.partition(":")[0] if self.point else "any moment"


def aimed() -> list[Kill]:
    """Every point, at several visits."""
    return [Kill(f"{point}:{visit}") for point in POINTS for visit in VISITS.get(point, (1, 2))]


def kills(count: int, processes: int, moment: random.Random) -> list[Kill]:
    """`count` kills: every aimed one while there is room (at most half), the others at any moment and of any rank."""
    points = aimed()
    moment.shuffle(points)
    # Where there is no room for all visits, each point is there before any comes a second time.
    met: Counter[str] = Counter()
    rounds = []
    for kill in points:
        met[kill.kind] += 1
        rounds.append(met[kill.kind])
    points = [kill for _, kill in sorted(zip(rounds, points, strict=True), key=lambda pair: pair[0])]
    chosen = points[: count // 2]
    chosen += [Kill(share=moment.random(), rank=moment.randrange(processes)) for _ in range(count - len(chosen))]
    moment.shuffle(chosen)
    return chosen


@dataclass
class Killing:
    """One run after another, killed until there are no kills left."""

    world: World
    manifest: Path
    twin: Twin
    processes: int
    tally: Tally
    usual_seconds: float
    moment: random.Random
    numbers: Iterator[int] = field(default_factory=itertools.count)
    pending: list[str] = field(default_factory=list)

    def run(self, plan: list[Kill]) -> None:
        plan = list(plan)
        while plan:
            self.one_run(plan)

    def one_run(self, plan: list[Kill]) -> None:
        """Kill one run until it is through or no kills are left; then it must be its twin."""
        folder = self.world.root / f"killed-{self.processes}-{next(self.numbers)}"
        if self.processes > 1:
            prepared(self.world, self.manifest, folder)
        self.pending = []
        finished = False
        while plan and not finished:
            finished = self.attempt(folder, plan.pop())
            if finished:
                # It came too late: another one in its place.
                plan.append(Kill(share=self.moment.random(), rank=self.moment.randrange(self.processes)))
        if not finished:
            ended = self.undisturbed(folder)
            if ended.code:
                self.settle([f"the last attempt ended with {ended.code}: {ended.said[-300:]}"])
                return
        found = compare(folder, self.twin)
        self.tally.tokens_doubled += found.doubled
        self.settle(found.problems)
        forget_run(folder)

    def settle(self, problems: list[str]) -> None:
        """A kill is survived when its run came to the right end."""
        for number, kind in enumerate(self.pending):
            self.tally.struck(kind, problems if number == 0 or not problems else [f"as the one before: {problems[0]}"])
        print(f"kill: {self.tally.injected} kills, {self.tally.survived} survived", file=sys.stderr, flush=True)

    def undisturbed(self, folder: Path) -> Ended:
        ranks = self.start(folder, Kill())
        ended = end_of(ranks[0])
        reap(ranks[1:])
        return ended

    def start(self, folder: Path, kill: Kill) -> list:
        if self.processes > 1:
            return start_ranks(self.world, folder, self.processes, {0: kill.point} if kill.point else None)
        point = {"REWARM_FAULT_POINT": kill.point} if kill.point else {}
        return [self.world.fork("run", self.manifest, "--workdir", folder, **point)]

    def attempt(self, folder: Path, kill: Kill) -> bool:
        """Start, kill, look at what lies there. True when the run came to its end before the kill."""
        before = committed(folder)[-1:] or [0]
        attempts = len(events_of(folder, "attempt started")) if (folder / "log.jsonl").exists() else 0
        ranks = self.start(folder, kill)
        victim = ranks[kill.rank]
        if not kill.point:
            try:
                victim.wait(kill.share * self.usual_seconds)
            except subprocess.TimeoutExpired:
                victim.kill()
        code = victim.wait(300)
        reap(ranks)
        if (folder / "log.jsonl").exists():
            self.resumed_from(folder, attempts, before[0])
        if code == -signal.SIGKILL:
            self.pending.append(f"{kill.kind}{' of 2 processes' if self.processes == 2 else ''}")
            self.look(folder)
            return False
        if code:
            self.tally.problems.append(f"{kill.kind}: ended with {code}, not by the kill")
        return code == 0 and (folder / "report.json").exists()

    def resumed_from(self, folder: Path, attempts: int, newest: int) -> None:
        """Every start must begin from the newest commit that lay there."""
        started = events_of(folder, "attempt started")[attempts:]
        if started and started[0]["step"] != newest:
            self.tally.tokens_lost += max(0, newest - started[0]["step"]) * STEP_TOKENS
            self.tally.problems.append(f"{folder.name}: resumed from {started[0]['step']}, {newest} was committed")

    def look(self, folder: Path) -> None:
        if reasons := broken(folder):
            self.tally.checkpoints_lost += len(reasons)
            self.tally.problems += reasons


def campaign(world: World, *, count: int = 200, seed: int = 0) -> Tally:
    """`count` kills: three quarters of them of runs with one process, the others with two."""
    tally = Tally("random kill, 1 and 2 processes")
    moment = random.Random(seed)
    for processes, share in ((1, count - count // 4), (2, count // 4)):
        if share == 0:
            continue
        manifest = world.manifest(f"kill-{processes}", **MANIFEST)
        twin = undisturbed(world, manifest, f"twin-{processes}", processes)
        # A start that finds everything prepared, and nothing to train: what most attempts of a killed run cost.
        began = time.monotonic()
        again = undisturbed(world, manifest, f"again-{processes}", processes)
        usual = time.monotonic() - began
        if found := compare(again.folder, twin).problems:
            raise SystemExit(f"two undisturbed runs differ already: {found}")
        Killing(world, manifest, twin, processes, tally, usual, moment).run(kills(share, processes, moment))
    tally.notes.append(f"Moments by `random.Random({seed})`; every run ended bit for bit as the one nobody touched")
    return tally
