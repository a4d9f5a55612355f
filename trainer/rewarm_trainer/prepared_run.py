"""A prepared run as a trainer opens it: its folder, snapshot and pins, and the order of rows that follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rewarm_api.pins import Pins
from rewarm_api.snapshot import Plan, Snapshot
from rewarm_trainer.ascending import Ascending
from rewarm_trainer.branch import carried
from rewarm_trainer.corpus.scores import open_scores, row_scores
from rewarm_trainer.corpus.source import open_source
from rewarm_trainer.corpus.tokenise import folder_of
from rewarm_trainer.from_run import order_of
from rewarm_trainer.order import Order, Phase
from rewarm_trainer.phases import beginning, opening
from rewarm_trainer.state import TrainState
from rewarm_trainer.workdir import WorkFolder


@dataclass(frozen=True)
class Run:
    """A prepared run: its folder, snapshot and pins."""

    work: WorkFolder
    snapshot: Snapshot
    pins: Pins
    cache: Path

    @property
    def plan(self) -> Plan:
        return self.pins.plan

    @property
    def experiment(self) -> str:
        return self.snapshot.digest

    def new_order(self, phases: list[Phase]) -> Order:
        return order_of(self.snapshot, self.pins, phases, self.ascending)

    @cached_property
    def ascending(self) -> Ascending | None:
        """Orders by score, where a phase asks for one."""
        length = self.snapshot.training.sequence_length

        def read(source: str, column: str) -> NDArray[np.float64]:
            pin = self.pins.sources[source]
            shards = open_source(folder_of(pin.prepared, "sources", self.cache), source, length)
            return row_scores(shards, open_scores(pin.scores[column], self.cache))

        return Ascending(read) if any(phase.order_by for phase in self.plan.phases) else None

    def beginning(self, log: Sequence[Phase], step: int) -> Phase | None:
        """The planned phase that begins after `step` updates and is not in the log yet."""
        return beginning(self.plan, log, step, self.snapshot.replay.ratio)

    def first_state(self) -> TrainState:
        state = TrainState(experiment=self.experiment, seed=self.snapshot.training.seed)
        taken = carried(self.pins.base_model, self.pins.sources, state.seed)
        order = self.new_order([opening(self.plan, self.snapshot.replay.ratio, taken)])
        state.advance(order, self.plan, 0)
        state.sources = {
            name: {"prepared": pin.prepared, "digest": pin.digest, "rows": pin.rows}
            for name, pin in self.pins.sources.items()
        }
        return state
