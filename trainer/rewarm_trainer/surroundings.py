"""What a worker finds around it: on a machine of one's own nothing to tell and nothing to store. Pods: pod_worker."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rewarm_trainer.registration import open_tracker
from rewarm_trainer.state import TrainState

if TYPE_CHECKING:
    from rewarm_trainer.exporter import Exporter
    from rewarm_trainer.loop import Judge, Keeper
    from rewarm_trainer.prepared_run import Run
    from rewarm_trainer.session import Session
    from rewarm_trainer.tracking import Tracker


class Surroundings:
    """The machine that a worker runs on, as far as training has to do with it."""

    owns_tracking = True
    """Whether this run's MLflow run and alias are ours to make, move and end."""

    def writer(self) -> dict[str, Any]:
        """Who claims the checkpoints."""
        return {"pid": os.getpid()}

    def attempt_number(self, earlier: int) -> int:
        """The number of this attempt; `earlier` ones are in the log."""
        return earlier + 1

    def tracker(self, run: Run) -> Tracker:
        return open_tracker(run.work, run.snapshot, run.pins)

    def exporter(self, port: int | None) -> Exporter | None:
        """Metrics of the run; rank 0 asks for them."""
        from rewarm_trainer.exporter import Exporter

        return None if port is None else Exporter(port)

    def opened(self, run: Run, guard: Callable[[], None]) -> None:
        """Rank 0 is about to train. `guard` raises once another writer took over."""

    def hears(self, record: dict[str, Any]) -> None:
        """A record of the log, on every rank."""

    def resumed(self, state: TrainState) -> None:
        """What earlier attempts had reached and measured."""

    def store(self) -> None:
        """Before a commit, off the training thread: everything small that a resume needs must be safe first."""

    def now(self, activity: str) -> None:
        """Something else is being done from here on."""

    def during(self, activity: str) -> AbstractContextManager[None]:
        return nullcontext()

    def alive(self) -> None:
        """A batch was scored."""

    def stepped(self) -> None:
        """A step begins."""

    def ended(self, report: dict[str, Any]) -> None:
        """The last report of rank 0 lies in the work folder."""

    def meet(self, session: Session) -> None:
        """All ranks have done everything that they had to do."""

    def linger(self, asked_to_stop: Callable[[], bool]) -> None:
        """Before metrics go."""


@dataclass(frozen=True)
class AnnouncedJudge:
    """A judge whose looks are announced."""

    judge: Judge
    around: Surroundings

    def look(self, state: TrainState, *, final: bool) -> None:
        with self.around.during("Evaluating"):
            self.judge.look(state, final=final)


@dataclass(frozen=True)
class AnnouncedKeeper:
    """A keeper whose commits are announced."""

    keeper: Keeper
    around: Surroundings

    def commit(self, state: TrainState, *, wait: bool) -> None:
        with self.around.during("Checkpointing"):
            self.keeper.commit(state, wait=wait)

    def restore(self) -> TrainState:
        with self.around.during("Starting"):
            return self.keeper.restore()
